/** The ids of short texts that were encoded before: a template's own texts stand in every conversation, and a call of an encoder costs more than they do. */

/** UTF-16 units. */
const MAX_LENGTH = 48;

/** Texts remembered. Once there are as many, all are forgotten: those that come again are soon back. */
const MAX_TEXTS = 1024;

/** A copy: a part of a text keeps the whole of it in memory. */
const copyOf = (text: string): string => Buffer.from(text, 'utf16le').toString('utf16le');

export class RunCache {
  readonly #known = new Map<string, readonly number[]>();

  /**
   * Appends the ids of a text, remembered or new.
   * @param encode Appends the ids to the end of the list.
   */
  encode(text: string, ids: number[], encode: (text: string, ids: number[]) => void): void {
    if (text.length > MAX_LENGTH) {
      encode(text, ids);
      return;
    }
    const known = this.#known.get(text);
    if (known !== undefined) {
      for (const id of known) ids.push(id);
      return;
    }
    const start = ids.length;
    encode(text, ids);
    if (this.#known.size >= MAX_TEXTS) this.#known.clear();
    this.#known.set(copyOf(text), ids.slice(start));
  }
}
