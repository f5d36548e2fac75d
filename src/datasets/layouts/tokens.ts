import { IGNORED_LABEL } from '../../prompt/renderer.ts';
import { checkKeys, type Fields, listField } from './fields.ts';
import type { Issues } from './issues.ts';

const FIELDS: ReadonlySet<string> = new Set(['input_ids', 'labels']);

const UINT32 = 2 ** 32 - 1;
const INT32 = 2 ** 31 - 1;

const isId = (value: unknown): boolean =>
  Number.isInteger(value) && (value as number) >= 0 && (value as number) <= UINT32;
const isLabel = (value: unknown): boolean =>
  Number.isInteger(value) && (((value as number) >= 0 && (value as number) <= INT32) || value === IGNORED_LABEL);

function checkEach(
  list: readonly unknown[],
  key: string,
  test: (value: unknown) => boolean,
  what: string,
  issues: Issues,
) {
  for (let index = 0; index < list.length && !issues.full; index++) {
    if (!test(list[index])) issues.wrong(`${key}[${index}]`, what, list[index]);
  }
}

/** `{"input_ids", "labels"}`: exact ids, and for each the label at its position, not shifted; -100 is ignored. */
export function readTokens(
  example: Fields,
  issues: Issues,
): { readonly inputIds: Uint32Array; readonly labels: Int32Array } {
  checkKeys(example, '', FIELDS, issues);
  const ids = listField(example, 'input_ids', 'a list of token ids', 'EMPTY_TOKENS', issues) ?? [];
  const labels = example.labels;
  checkEach(ids, 'input_ids', isId, 'a token id', issues);
  if (!Array.isArray(labels)) {
    issues.wrong('labels', 'a list of labels, one for each token id', labels);
    return { inputIds: new Uint32Array(), labels: new Int32Array() };
  }
  checkEach(labels, 'labels', isLabel, 'a token id or -100', issues);
  if (ids.length !== labels.length) {
    const description = `expected one label for each of the ${ids.length} token ids, found ${labels.length}`;
    issues.add('labels', description, 'LENGTHS_DIFFER');
  }
  return issues.found.length > 0
    ? { inputIds: new Uint32Array(), labels: new Int32Array() }
    : { inputIds: Uint32Array.from(ids as number[]), labels: Int32Array.from(labels as number[]) };
}
