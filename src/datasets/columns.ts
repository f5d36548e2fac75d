/** A file's columns to the fields of its format. */
import type { FieldViolation } from '../errors/luthier-error.ts';
import type { Columns } from './file-layout.ts';
import type { Fields } from './layouts/fields.ts';

/** Renames and leaves out columns as `Columns` says. */
export class ColumnMapper {
  readonly #columns: Columns;
  /** The format's field by the file's column. */
  readonly #fields: ReadonlyMap<string, string>;
  readonly #ignored: ReadonlySet<string>;
  readonly #changes: boolean;

  constructor(columns: Columns) {
    this.#columns = columns;
    this.#fields = new Map(Object.entries(columns.mapped).map(([field, column]) => [column, field]));
    this.#ignored = new Set(columns.ignored);
    this.#changes = this.#fields.size > 0 || this.#ignored.size > 0;
  }

  /** The example with the format's fields, or the mapped columns that it lacks. */
  map(example: Fields): Fields | readonly FieldViolation[] {
    if (!this.#changes) return example;
    const missing = Object.entries(this.#columns.mapped).filter(([, column]) => !Object.hasOwn(example, column));
    // Absent in one example only is the format's business: it knows what may be left out.
    const entries = Object.entries(example).filter(([column]) => !this.#ignored.has(column));
    if (missing.length === this.#fields.size && missing.length > 0) {
      return missing.slice(0, 10).map(([field, column]) => ({
        field: column,
        description: `expected the column ${JSON.stringify(column)}, which is mapped to ${field}, found ${columnsIn(example)}`,
        reason: 'UNKNOWN_COLUMN',
      }));
    }
    const mapped: [string, unknown][] = entries.map(([column, value]) => [this.#fields.get(column) ?? column, value]);
    const twice = mapped.find(([field], index) => mapped.findIndex(([other]) => other === field) !== index);
    if (twice === undefined) return Object.fromEntries(mapped);
    const column = this.#columns.mapped[twice[0]] ?? twice[0];
    const description = `expected one column for ${twice[0]}, found ${JSON.stringify(column)}, which is mapped to it, beside one of that name; ignore one of them`;
    return [{ field: twice[0], description, reason: 'UNKNOWN_COLUMN' }];
  }

  /** A place in the format's words, such as `prompt`, in the file's: `question`. */
  nameInFile(place: string): string {
    const end = place.search(/[.[]/);
    const field = end < 0 ? place : place.slice(0, end);
    const column = Object.hasOwn(this.#columns.mapped, field) ? this.#columns.mapped[field] : undefined;
    return column === undefined ? place : `${column}${end < 0 ? '' : place.slice(end)}`;
  }
}

function columnsIn(example: Fields): string {
  const names = Object.keys(example);
  const shown = names.slice(0, 10).map((name) => JSON.stringify(name.slice(0, 40)));
  return `${shown.join(', ') || 'none'}${names.length > shown.length ? ', …' : ''}`;
}
