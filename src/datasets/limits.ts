/** Bounds of what is read from a file, whoever wrote it. `docs/datasets.md` states them. */

const MEBIBYTE = 2 ** 20;

/** Longest example as it is written, in bytes. */
export const MAX_EXAMPLE_BYTES = 16 * MEBIBYTE;

/** Lists and objects within each other in one example of more than 64 KiB. */
export const MAX_DEPTH = 64;

/** Lists, objects and keys in one example of more than 64 KiB: a message has three to five. */
export const MAX_MADE = 2 ** 19;

/** Examples handed on at once. */
export const EXAMPLES_AT_ONCE = 1024;

/** Bytes of a file that are read, decoded and parsed at once. */
export const READ_BYTES = 128 * 1024;

/** A compressed file may grow to this size at any ratio, and beyond it `MAX_EXPANSION` times. */
export const FREE_EXPANSION_BYTES = 64 * MEBIBYTE;

/** Times that a compressed file may grow. Text seldom passes 20. */
export const MAX_EXPANSION = 256;

/** Uncompressed bytes of a Parquet row group, of the columns that are read: it is decoded as a whole. */
export const MAX_ROW_GROUP_BYTES = 96 * MEBIBYTE;

/** The same where a column holds lists or structs, which take several times their size. */
export const MAX_NESTED_ROW_GROUP_BYTES = 24 * MEBIBYTE;

/** Rows of a Parquet row group. */
export const MAX_ROW_GROUP_ROWS = 2 ** 20;

/** Values in one column of a Parquet row group, those in lists counted each. */
export const MAX_COLUMN_VALUES = 2 ** 22;

/** A Parquet file's index. */
export const MAX_FOOTER_BYTES = 16 * MEBIBYTE;

/** Heap of the process that reads a file. A file that needs more is refused. */
export const READER_HEAP_MEBIBYTES = 384;

/** Of that, half of what is new: examples live for a moment only, and room for more of them would only fill with those that are gone. */
export const READER_YOUNG_MEBIBYTES = 4;
