import type { z } from 'zod';
import { LuthierError } from '../../errors/luthier-error.ts';
import { violationsOf } from '../../errors/violations.ts';

/**
 * Checks a decoded request; every service method starts with this.
 * @throws LuthierError INVALID_REQUEST with one violation for each problem, fields named as in the proto
 */
export function parseRequest<Schema extends z.ZodType>(schema: Schema, request: unknown): z.output<Schema> {
  const result = schema.safeParse(request);
  if (result.success) return result.data;
  const violations = violationsOf(result.error, request);
  const message = violations.map((one) => (one.field === '' ? one.description : `${one.field}: ${one.description}`));
  throw new LuthierError('INVALID_REQUEST', message.join('; '), { violations });
}
