/** Text that repeats nothing: the corpus's words and characters, recombined from a seed. A repeated paragraph would measure caches. */
import { randomNumbers } from '../../fixtures/random-texts.ts';
import { corpus } from '../../fixtures/tokenizers.ts';

/**
 * Documents of mixed Chinese and English: runs of both in turn. Of the words one third is the beginning of one of the corpus's and the end of
 * another.
 * @param bytes Of all of them in UTF-8, about.
 */
export function pseudoDocuments(bytes: number, seed = 1): string[] {
  const random = randomNumbers(seed);
  const text = corpus().join(' ');
  const words = text.match(/\p{Script=Latin}{2,}/gu) ?? [];
  const characters = text.match(/\p{Script=Han}/gu) ?? [];
  const pick = (list: readonly string[]): string => list[random(list.length)] ?? '';
  const word = (): string => {
    if (random(3) > 0) return pick(words);
    const [first, second] = [pick(words), pick(words)];
    return first.slice(0, 1 + random(first.length)) + second.slice(random(second.length));
  };
  const english = (): string =>
    Array.from({ length: 3 + random(12) }, word).join(' ') + pick(['. ', ', ', '\n', ': ', '! ']);
  const chinese = (): string =>
    Array.from({ length: 5 + random(25) }, () => pick(characters)).join('') + pick(['，', '。', '\n', '：']);
  const document = (): string => {
    let written = '';
    while (written.length < 1500) written += random(2) === 0 ? english() : chinese();
    return written;
  };
  const documents: string[] = [];
  for (let left = bytes; left > 0; left -= Buffer.byteLength(documents.at(-1) ?? '')) documents.push(document());
  return documents;
}
