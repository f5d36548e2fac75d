/** Named moments at which a server is killed. */
import type { KillPoint } from './shim.ts';

const at = (
  operation: KillPoint['operation'],
  glob: string,
  when: KillPoint['when'] = 'before',
  count = 1,
): KillPoint => ({ operation, glob, count, when });

const LOG = 'data/luthier.db-wal';

/** Globs are of paths below the disk; `*` matches slashes, too. */
export const POINTS: Readonly<Record<string, KillPoint>> = {
  // Start.
  'data folder made': at('mkdir', 'data', 'after'),
  'folder locked': at('create', 'data/process', 'after'),
  'first table': at('sync', 'data/luthier.db', 'before'),
  'half a migration': at('write', LOG, 'half', 3),
  // Uploads.
  'upload begun': at('mkdir', 'data/datasets/.writing-*', 'after'),
  'half an uploaded part': at('write', 'data/datasets/.writing-*/incoming', 'half', 3),
  'upload before it is synced': at('sync', 'data/datasets/.writing-*/incoming', 'before'),
  'upload named': at('rename', 'data/datasets/.writing-*/data.jsonl', 'after'),
  'upload before it is in place': at('rename', 'data/datasets/train', 'before'),
  'upload in place, not in the database': at('rename', 'data/datasets/train', 'after'),
  'upload in place, its folder synced': at('sync', 'data/datasets', 'after'),
  'chosen name in place': at('rename', 'data/datasets/d-*', 'after'),
  'uploaded adapter before it is in place': at('rename', 'data/adapters/a-*', 'before'),
  'uploaded adapter in place': at('rename', 'data/adapters/a-*', 'after'),
  // Tokens.
  'token file begun': at('create', 'data/token-cache/.writing-*', 'after'),
  'half a token file': at('write', 'data/token-cache/.writing-*', 'half', 2),
  'token file before it is in place': at('rename', 'data/token-cache/*', 'before'),
  'token file in place': at('rename', 'data/token-cache/*', 'after'),
  // Jobs and events.
  'metric files begun': at('mkdir', 'data/runs/*', 'after'),
  'half an event': at('write', LOG, 'half', 90),
  'event written, not synced': at('sync', LOG, 'before', 35),
  'event synced, not told': at('sync', LOG, 'after', 36),
  'half a line of metrics': at('write', 'data/runs/*/metrics.jsonl', 'half', 9),
  'step in the middle': at('sync', LOG, 'after', 45),
  // Checkpoints.
  'checkpoint begun': at('mkdir', 'data/checkpoints/*/.writing-*', 'after'),
  'half a checkpoint': at('write', 'data/checkpoints/*/.writing-*', 'half', 2),
  'checkpoint without a manifest': at('create', 'data/checkpoints/*/.writing-*/manifest.json', 'before'),
  'checkpoint before it is in place': at('rename', 'data/checkpoints/*/8-*', 'before'),
  'checkpoint in place, not told': at('rename', 'data/checkpoints/*/12-*', 'after'),
  'old checkpoint before it is pruned': at('rename', 'data/checkpoints/*/.deleting-*', 'before'),
  'half an old checkpoint': at('unlink', 'data/checkpoints/*/.deleting-*', 'after', 2),
  'checkpoints of a job that is over': at('rename', 'data/checkpoints/.deleting-*', 'after'),
  // The adapter.
  'adapter folder made': at('mkdir', 'data/jobs/*', 'after'),
  'half of the adapter': at('write', 'data/jobs/*/.adapter_model*', 'half'),
  'adapter before it is named': at('rename', 'data/jobs/*/adapter_model*', 'before'),
  'adapter without settings': at('rename', 'data/jobs/*/adapter_config*', 'before'),
  'adapter whole': at('rename', 'data/jobs/*/adapter_config*', 'after'),
  'adapter before it is in place': at('rename', 'data/adapters/first', 'before'),
  'adapter in place, not in the database': at('rename', 'data/adapters/first', 'after'),
  // Deletion and export.
  'data set deleted, its folder there': at('rename', 'data/datasets/.deleting-*', 'before'),
  'data set in its grave': at('rename', 'data/datasets/.deleting-*', 'after'),
  'half a data set deleted': at('unlink', 'data/datasets/.deleting-*', 'after'),
  'adapter in its grave': at('rename', 'data/adapters/.deleting-*', 'after'),
  'job deleted, its metrics there': at('unlink', 'data/runs/*', 'before'),
  'export begun': at('mkdir', 'exports/.writing-*', 'after'),
  'half an export': at('write', 'exports/.writing-*/adapter_model*', 'half'),
  'export before it is in place': at('rename', 'exports/first', 'before'),
  'export in place': at('rename', 'exports/first', 'after'),
  // The end.
  'last checkpoint of the database': at('write', 'data/luthier.db', 'half', 4),
  'log before it is deleted': at('unlink', LOG, 'before'),
  'log deleted': at('unlink', LOG, 'after'),
};

/** Those that every test run meets. */
export const SHORT: readonly string[] = [
  'half a migration',
  'upload in place, not in the database',
  'chosen name in place',
  'token file before it is in place',
  'half an event',
  'half a checkpoint',
  'checkpoint in place, not told',
  'event synced, not told',
  'half of the adapter',
  'adapter in place, not in the database',
  'half a data set deleted',
  'export in place',
  'log before it is deleted',
];
