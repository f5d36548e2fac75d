/** How a data set's file is written: what holds the examples, how that is compressed, and what its columns are called. */
import type { FormatName } from './formats.ts';

/** `jsonl`: one JSON object a line. `json`: one list of them. `csv`: a line of column names, then records. */
export type Container = 'jsonl' | 'json' | 'csv' | 'parquet';

export type Compression = 'none' | 'gzip' | 'zstd';

/** Which of a file's columns (the top-level fields of an example) become which fields of its format. */
export interface Columns {
  /** The file's column by the format's field: `{prompt: 'question'}`. */
  readonly mapped: Readonly<Record<string, string>>;
  /** Columns of the file that are left out. */
  readonly ignored: readonly string[];
}

export const NO_COLUMNS: Columns = { mapped: {}, ignored: [] };

/** What is known about a file before it is read. */
export interface FileHints {
  /** Null: detected from the first example. */
  readonly format: FormatName | null;
  /** Null: detected from the first bytes. */
  readonly container: Container | null;
  readonly columns: Columns;
}

export const NO_HINTS: FileHints = { format: null, container: null, columns: NO_COLUMNS };

/** What a file turned out to be. */
export interface FileLayout {
  /** Null: there was no example with a known format. */
  readonly format: FormatName | null;
  readonly container: Container;
  readonly compression: Compression;
}
