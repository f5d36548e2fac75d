import type { FieldViolation } from '../../errors/luthier-error.ts';

/** Problems told of one example: a line of a million wrong values has more than anyone reads. */
const MAX_ISSUES = 10;

/** What is wrong with one example, in the order it was found. `field` is the place within the example, empty for all of it. */
export class Issues {
  readonly found: FieldViolation[] = [];

  /** True where further problems are not told. */
  get full(): boolean {
    return this.found.length >= MAX_ISSUES;
  }

  add(field: string, description: string, reason: string): void {
    if (!this.full) this.found.push({ field, description, reason });
  }

  /** A value of another kind than the format has there. */
  wrong(field: string, expected: string, value: unknown): void {
    this.add(field, `expected ${expected}, found ${found(value)}`, 'WRONG_SHAPE');
  }
}

/** What a value is, in the words of JSON; short enough for a message. */
function found(value: unknown): string {
  if (value === undefined) return 'nothing';
  if (Array.isArray(value)) return value.length === 0 ? 'an empty list' : `a list of ${value.length}`;
  if (typeof value === 'object' && value !== null) return 'an object';
  const text = typeof value === 'string' && value.length > 80 ? '' : JSON.stringify(value);
  return text === '' || text.length > 82 ? `a text of ${(value as string).length} characters` : text;
}
