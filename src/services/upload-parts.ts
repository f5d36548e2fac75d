/** A client's stream of a header and then pieces of files. */
import { LuthierError } from '../errors/luthier-error.ts';

const MAX_CHUNK_BYTES = 2 ** 20;

/** A message of such a stream. */
interface UploadMessage<Header> {
  readonly part?:
    | { readonly $case: 'header'; readonly value: Header }
    | { readonly $case: 'chunk'; readonly value: Uint8Array }
    | undefined;
}

function refuse(field: string, description: string): never {
  throw new LuthierError('INVALID_REQUEST', `${field}: ${description}`, {
    violations: [{ field, description, reason: '' }],
  });
}

/** @throws LuthierError INVALID_REQUEST where the stream begins with anything else */
export async function takeHeader<Header>(requests: AsyncIterator<UploadMessage<Header>>): Promise<Header> {
  const first = await requests.next();
  const part = first.done ? undefined : first.value.part;
  if (part?.$case === 'header') return part.value;
  return refuse(
    'header',
    `expected a header first, found ${first.done ? 'the end of the stream' : (part?.$case ?? 'nothing')}`,
  );
}

/** @throws LuthierError INVALID_REQUEST for anything but pieces of at most 1 MiB */
export async function* takeChunks<Header>(
  requests: AsyncIterator<UploadMessage<Header>>,
): AsyncGenerator<Uint8Array, void, undefined> {
  for (let next = await requests.next(); !next.done; next = await requests.next()) {
    const { part } = next.value;
    if (part?.$case !== 'chunk') refuse('chunk', `expected a piece of the file, found ${part?.$case ?? 'nothing'}`);
    if (part.value.length > MAX_CHUNK_BYTES) {
      refuse('chunk', `expected at most ${MAX_CHUNK_BYTES} bytes, found ${part.value.length}`);
    }
    yield part.value;
  }
}
