import type { FieldViolation } from '../../errors/luthier-error.ts';

/**
 * An example as its container holds it: JSON text, a value that needs no parsing, or what is wrong with its bytes. `number` counts from 1:
 * lines as an editor shows them in JSONL and CSV, examples in a JSON list and in Parquet.
 */
export type FileRecord =
  | { readonly number: number; readonly text: string }
  | { readonly number: number; readonly value: Readonly<Record<string, unknown>> }
  | { readonly number: number; readonly problem: FieldViolation };

/** A record that is a problem. Null: of the file as a whole. */
export function problemRecord(number: number | null, description: string, reason: string): FileRecord {
  const field = number === null ? 'file' : `line[${number}]`;
  return { number: number ?? 0, problem: { field, description, reason } };
}

/** Cuts bytes into records, however they arrive. */
export interface RecordSplitter {
  /** The records that end within this piece. The piece must not change afterwards. */
  push(piece: Uint8Array): FileRecord[];
  /** What the end of the file completes. */
  end(): FileRecord[];
}
