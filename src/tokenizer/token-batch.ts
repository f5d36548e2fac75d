/** Sequences of ids, joined: sequence i is `[offsets[i], offsets[i+1])`. */
export interface TokenBatch {
  readonly ids: Uint32Array;
  readonly offsets: Uint32Array;
}

/** Joins typed arrays of one kind. */
export function concatenate<T extends Uint32Array | Int32Array>(
  arrays: readonly T[],
  create: (length: number) => T,
): T {
  const joined = create(arrays.reduce((sum, array) => sum + array.length, 0));
  let at = 0;
  for (const array of arrays) {
    joined.set(array, at);
    at += array.length;
  }
  return joined;
}

/** Offsets of sequences with these lengths; one more than there are sequences. */
export function offsetsOf(lengths: Iterable<number>): Uint32Array {
  const offsets = [0];
  for (const length of lengths) offsets.push((offsets.at(-1) ?? 0) + length);
  return Uint32Array.from(offsets);
}

/** Lengths of the sequences of a batch. */
export function lengthsOf(offsets: Uint32Array): number[] {
  return Array.from(offsets.subarray(1), (end, index) => end - (offsets[index] ?? 0));
}

/** Cuts a list into chunks of about `size` units each. */
export function chunksBySize<T>(items: readonly T[], sizeOf: (item: T) => number, size: number): T[][] {
  const chunks: T[][] = [];
  let current: T[] = [];
  let filled = 0;
  for (const item of items) {
    current.push(item);
    filled += sizeOf(item);
    if (filled < size) continue;
    chunks.push(current);
    current = [];
    filled = 0;
  }
  if (current.length > 0) chunks.push(current);
  return chunks;
}
