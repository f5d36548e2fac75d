import type { ZodError } from 'zod';
import type { FieldViolation } from './luthier-error.ts';

const snakeCase = (name: string): string => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);

interface Chosen {
  readonly $case: string;
  readonly value: unknown;
}

const isChosen = (value: unknown): value is Chosen =>
  typeof value === 'object' && value !== null && '$case' in value && typeof value.$case === 'string';

const member = (value: unknown, key: PropertyKey): unknown =>
  typeof value === 'object' && value !== null ? (value as Record<PropertyKey, unknown>)[key] : undefined;

/**
 * A path into a decoded request as the proto writes it: `['sampling', 'topK']` is `sampling.top_k`, list elements are `[n]`.
 * @param root The request; with it, a oneof reads as the field that was set (`prompt.messages`), not as `prompt.input.value`.
 */
export function fieldPath(path: readonly PropertyKey[], root?: unknown): string {
  const parts: string[] = [];
  let value = root;
  for (const key of path) {
    const owner = value;
    value = member(value, key);
    if (isChosen(owner)) {
      if (key === 'value') {
        parts.pop();
        parts.push(snakeCase(owner.$case));
      }
      continue;
    }
    if (typeof key === 'number') parts.push(`${parts.pop() ?? ''}[${key}]`);
    else parts.push(snakeCase(String(key)));
  }
  return parts.join('.');
}

/** zod's issues as field violations; one for each unknown key. `root` as for `fieldPath`. */
export function violationsOf(error: ZodError, root?: unknown): FieldViolation[] {
  return error.issues.flatMap((issue) => {
    if (issue.code === 'unrecognized_keys') {
      return issue.keys.map((key) => ({
        field: fieldPath([...issue.path, key], root),
        description: 'unknown field',
        reason: 'UNKNOWN_FIELD',
      }));
    }
    const field = fieldPath(issue.path, root);
    // What is wrong with the key of a map is told one level below.
    if (issue.code === 'invalid_key') {
      return issue.issues.map(({ message }) => ({ field, description: message, reason: '' }));
    }
    const reason = issue.code === 'custom' && typeof issue.params?.reason === 'string' ? issue.params.reason : '';
    return [{ field, description: issue.message, reason }];
  });
}
