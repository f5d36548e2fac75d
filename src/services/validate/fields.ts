/** Fields that several requests have. */
import { z } from 'zod';

const NAME_CHARACTERS = 4096;

/** A resource name or a path; must be there. */
export const resourceName = (what: string) =>
  z
    .string()
    .min(1, `expected ${what}, found nothing`)
    .max(NAME_CHARACTERS, `expected at most ${NAME_CHARACTERS} characters`);

/** A resource name that may be left out. */
export const optionalName = z.string().max(NAME_CHARACTERS, `expected at most ${NAME_CHARACTERS} characters`);

/** What makes repeating a request harmless. */
export const requestId = z.string().max(128, 'expected at most 128 characters');

/** A whole number within bounds, both inclusive. */
export const wholeNumber = (minimum: number, maximum: number) =>
  z
    .int(`expected a whole number between ${minimum} and ${maximum}`)
    .min(minimum, `expected at least ${minimum}`)
    .max(maximum, `expected at most ${maximum}`);

/** A finite number within bounds, both inclusive. */
export const finiteNumber = (minimum: number, maximum: number) =>
  z
    .number(`expected a number between ${minimum} and ${maximum}`)
    .min(minimum, `expected at least ${minimum}`)
    .max(maximum, `expected at most ${maximum}`);

/** A page of a list. */
export const page = { pageSize: wholeNumber(0, 1000), pageToken: z.string().max(1024) };
