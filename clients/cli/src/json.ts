/**
 * Messages as canonical proto3 JSON (https://protobuf.dev/programming-guides/json/) with zero values written out. Generated
 * `toJSON` leaves empty lists out and writes 64-bit integers as numbers; both are put right here.
 */

/** Fields of 64 bits, which canonical JSON writes as text. */
export const UINT64_FIELDS: ReadonlySet<string> = new Set([
  'activationBytes',
  'adapterBytes',
  'allocatedBytes',
  'deviceMemoryBytes',
  'entryNumber',
  'evaluationBytes',
  'freeBytes',
  'heldBytes',
  'loadedBytes',
  'marginBytes',
  'parameterCount',
  'peakAllocatedBytes',
  'peakBytes',
  'pinnedHostBytes',
  'readBytes',
  'runTokens',
  'scratchBytes',
  'sizeBytes',
  'storedBytes',
  'totalBytes',
  'totalMemoryBytes',
  'trainableParameters',
  'weightBytes',
  'writtenBytes',
]);

type Entries = Readonly<Record<string, unknown>>;

const isObject = (value: unknown): value is Entries => typeof value === 'object' && value !== null;

/** `json` is what `toJSON` made of `message`; the result has every field in the contract's order. */
function complete(message: unknown, json: unknown): unknown {
  if (Array.isArray(json) && Array.isArray(message)) return json.map((item, index) => complete(message[index], item));
  if (!isObject(json) || !isObject(message)) return json;
  const result: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(message)) {
    if (isObject(value) && typeof value.$case === 'string')
      result[value.$case] = complete(value.value, json[value.$case]);
    else if (Array.isArray(value) && json[key] === undefined) result[key] = [];
    else if (typeof value === 'number' && UINT64_FIELDS.has(key)) result[key] = String(value);
    else if (json[key] !== undefined) result[key] = complete(value, json[key]);
  }
  return result;
}

/** The JSON value of a message. */
export function toCanonicalJson<T>(type: { toJSON(message: T): unknown }, message: T): unknown {
  return complete(message, type.toJSON(message));
}
