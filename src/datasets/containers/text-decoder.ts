/** Strict UTF-8: nothing is replaced in silence. */
const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

export const NOT_UTF8 = 'expected UTF-8, found bytes that are none; save the file as UTF-8';

/** Null: the bytes are no UTF-8. */
export function decodeUtf8(bytes: Uint8Array): string | null {
  try {
    return decoder.decode(bytes);
  } catch {
    return null;
  }
}
