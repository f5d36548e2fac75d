import { z } from 'zod';
import { expected } from './fields.ts';

const MAX_LABELS = 32;
const MAX_VALUE = 256;
const NAME = /^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$/;
const name = 'at most 63 letters, digits, ".", "_", "-" and "/", the first a letter or digit';

/** Labels of a job, or those that are looked for; in the order of their names, so that equal labels are equal bytes. */
export const labelsField = z
  .record(
    z.string().regex(NAME, expected(`a label name: ${name}`)),
    z.string().max(MAX_VALUE, expected(`at most ${MAX_VALUE} characters`)),
  )
  .refine((labels) => Object.keys(labels).length <= MAX_LABELS, expected(`at most ${MAX_LABELS} labels`))
  .transform((labels) => Object.fromEntries(Object.entries(labels).sort(([a], [b]) => (a < b ? -1 : 1))));
