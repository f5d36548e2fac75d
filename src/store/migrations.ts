import { ADAPTER_FOLDER_COLUMN, ADAPTER_TABLE } from '../adapters/adapter-rows.ts';
import { DATASET_LAYOUT_COLUMNS, DATASET_TABLE } from '../datasets/dataset-store.ts';
import { JOB_AUDIT_TABLE } from '../jobs/job-audit-sqlite.ts';
import { JOB_LEASE_TABLE } from '../jobs/job-leases-sqlite.ts';
import { JOB_DELETION_TABLE, JOB_LABEL_TABLE, JOB_PRIORITY_COLUMN, JOB_TABLES } from '../jobs/job-store-sqlite.ts';
import { IMPORTED_MODEL_TABLE } from '../models/imported-models.ts';
import { REQUEST_TABLE } from './sqlite-request-log.ts';
import { WRITING_FOLDER_TABLE } from './writing-folders.ts';

/**
 * The database's history: entry n brings version n to version n + 1. Entries are never changed or removed once released; every part
 * adds its own at the end.
 */
export const MIGRATIONS: readonly string[] = [
  REQUEST_TABLE,
  DATASET_TABLE,
  ADAPTER_TABLE,
  JOB_TABLES,
  DATASET_LAYOUT_COLUMNS,
  ADAPTER_FOLDER_COLUMN,
  IMPORTED_MODEL_TABLE,
  WRITING_FOLDER_TABLE,
  JOB_LABEL_TABLE,
  JOB_PRIORITY_COLUMN,
  JOB_LEASE_TABLE,
  JOB_AUDIT_TABLE,
  JOB_DELETION_TABLE,
];
