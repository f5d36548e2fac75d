import { expect, test } from 'vitest';
import { DatasetContainer } from '../../typescript/src/index.ts';
import { fileOptions } from './file-options.ts';

const { DATASET_CONTAINER_CSV: csv, DATASET_CONTAINER_JSON: json } = DatasetContainer;

test.each([
  ['a.csv', undefined, csv],
  ['a.b/Table.TSV.gz', undefined, csv],
  ['a.csv.zst', undefined, csv],
  ['a.csv', 'json', json],
  ['a.jsonl', undefined, undefined],
  ['a.parquet', undefined, undefined],
  ['csv', undefined, undefined],
])('%s with --container %s', (path, container, expected) => {
  expect(fileOptions({ container }, path).container).toBe(expected);
});
