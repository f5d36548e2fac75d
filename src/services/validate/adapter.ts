import { z } from 'zod';
import { expected, optionalName, page, requestId, resourceId, resourceName } from './fields.ts';

const name = resourceName('an adapter: `adapters/{id}`');
const path = z.string().min(1, expected('a path')).max(4096, expected('at most 4096 characters'));

export const getSchema = z.object({ name });
export const deleteSchema = z.object({ name, requestId });
export const listSchema = z.object(page);
/** ImportAdapterRequest. */
export const importSchema = z.object({ requestId, adapterId: resourceId, path, baseModel: optionalName });
/** ExportAdapterRequest. */
export const exportSchema = z.object({ name, path, requestId });
