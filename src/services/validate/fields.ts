/** Fields that several requests have. Every refusal says what was expected and what was found. */
import { z } from 'zod';
import { nearestName } from '../../config/nearest.ts';
import { LoadIn } from '../../gen/luthier/v1/common.ts';
import { MAX_TEMPLATE_FILE } from '../../prompt/definition.ts';

const NAME_CHARACTERS = 4096;
const SHOWN_CHARACTERS = 80;

function show(value: unknown): string {
  if (value === undefined) return 'nothing';
  if (typeof value === 'number') return String(value);
  if (typeof value === 'string' && value.length > SHOWN_CHARACTERS) return `${value.length} characters`;
  if (Array.isArray(value)) return `${value.length} of them`;
  return JSON.stringify(value);
}

/** The error of a zod check: what was expected, and what was found. */
export const expected = (what: string) => ({
  error: (issue: { readonly input?: unknown }): string => `expected ${what}, found ${show(issue.input)}`,
});

const atMost = (characters: number) => expected(`at most ${characters} characters`);

/** A resource name or a path; must be there. */
export const resourceName = (what: string) =>
  z.string().min(1, expected(what)).max(NAME_CHARACTERS, atMost(NAME_CHARACTERS));

/** A resource name that may be left out. */
export const optionalName = z.string().max(NAME_CHARACTERS, atMost(NAME_CHARACTERS));

const RESOURCE_ID = /^[a-z0-9][a-z0-9._-]{0,62}$/;

/** An id that a client chooses for a resource it makes; empty: chosen by the server. */
export const resourceId = z
  .string()
  .refine(
    (id) => id === '' || RESOURCE_ID.test(id),
    expected('at most 63 of a-z, 0-9, ".", "_" and "-", the first a letter or digit'),
  );

/** A template's id, or the text of a template file; empty: the default. */
export const templateField = z.string().max(MAX_TEMPLATE_FILE, atMost(MAX_TEMPLATE_FILE));

/** What makes repeating a request harmless. */
export const requestId = z.string().max(128, atMost(128));

/** A whole number within bounds, both inclusive. */
export function wholeNumber(minimum: number, maximum: number) {
  const error = expected(`a whole number between ${minimum} and ${maximum}`);
  return z.int(error).min(minimum, error).max(maximum, error);
}

/** A finite number within bounds, both inclusive. */
export function finiteNumber(minimum: number, maximum: number) {
  const error = expected(`a number between ${minimum} and ${maximum}`);
  return z.number(error).min(minimum, error).max(maximum, error);
}

/** A finite number above 0 and at most a bound. */
export function positiveNumber(maximum: number) {
  const error = expected(`a number above 0 and at most ${maximum}`);
  return z.number(error).gt(0, error).max(maximum, error);
}

/** One of a closed set of names; refused with the one that was probably meant. */
export function nameField<Name extends string>(names: readonly Name[]) {
  const { error } = expected(`one of ${names.join(', ')}`);
  return z.enum(names, {
    error: (issue) => {
      const nearest = typeof issue.input === 'string' ? nearestName(issue.input, names) : null;
      return nearest === null ? error(issue) : `${error(issue)}; did you mean ${nearest}?`;
    },
  });
}

/** A value of an enumeration of the contract. */
export const member = <Value extends number>(values: Readonly<Record<string, Value>>, what: string) =>
  z.custom<Value>((value) => Object.values(values).includes(value as Value), expected(what));

/** How a base's weights are held; unspecified becomes as stored. */
export const loadInField = member(LoadIn, `one of ${Object.keys(LoadIn).join(', ')}`).transform((value) =>
  value === LoadIn.LOAD_IN_UNSPECIFIED ? LoadIn.LOAD_IN_STORED : value,
);

/** A page of a list. */
export const page = { pageSize: wholeNumber(0, 1000), pageToken: z.string().max(1024, atMost(1024)) };
