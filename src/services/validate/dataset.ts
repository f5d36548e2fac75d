import { z } from 'zod';
import { type Container, NO_COLUMNS } from '../../datasets/file-layout.ts';
import { FORMAT_FIELDS, type FormatName } from '../../datasets/formats.ts';
import type { OverLength } from '../../datasets/over-length.ts';
import { DatasetContainer, DatasetFormat, OverLengthPolicy, TrainOn } from '../../gen/luthier/v1/common.ts';
import type { TrainOn as TrainOnName } from '../../prompt/renderer.ts';
import {
  expected,
  optionalName,
  page,
  positiveNumber,
  requestId,
  resourceId,
  resourceName,
  templateField,
  wholeNumber,
} from './fields.ts';

const UINT32 = 2 ** 32 - 1;
/** Examples in one answer of PreviewExamples. */
const PREVIEWS = 100;
const INLINE_BYTES = 2 ** 20;

/** The contract's layouts by number; null: detected. */
const FORMATS: ReadonlyMap<DatasetFormat, FormatName | null> = new Map([
  [DatasetFormat.DATASET_FORMAT_UNSPECIFIED, null],
  [DatasetFormat.DATASET_FORMAT_MESSAGES, 'messages'],
  [DatasetFormat.DATASET_FORMAT_PROMPT_COMPLETION, 'prompt_completion'],
  [DatasetFormat.DATASET_FORMAT_TOKENS, 'tokens'],
  [DatasetFormat.DATASET_FORMAT_CONVERSATIONS, 'conversations'],
  [DatasetFormat.DATASET_FORMAT_INSTRUCTION, 'instruction'],
  [DatasetFormat.DATASET_FORMAT_ROUNDS, 'rounds'],
  [DatasetFormat.DATASET_FORMAT_TEXT, 'text'],
]);

/** The contract's containers by number; null: detected. */
const CONTAINERS: ReadonlyMap<DatasetContainer, Container | null> = new Map([
  [DatasetContainer.DATASET_CONTAINER_UNSPECIFIED, null],
  [DatasetContainer.DATASET_CONTAINER_JSONL, 'jsonl'],
  [DatasetContainer.DATASET_CONTAINER_JSON, 'json'],
  [DatasetContainer.DATASET_CONTAINER_CSV, 'csv'],
  [DatasetContainer.DATASET_CONTAINER_PARQUET, 'parquet'],
]);

const TRAIN_ON: ReadonlyMap<TrainOn, TrainOnName> = new Map([
  [TrainOn.TRAIN_ON_UNSPECIFIED, 'assistant'],
  [TrainOn.TRAIN_ON_ASSISTANT, 'assistant'],
  [TrainOn.TRAIN_ON_LAST, 'last'],
  [TrainOn.TRAIN_ON_ALL, 'all'],
]);

const OVER_LENGTH: ReadonlyMap<OverLengthPolicy, OverLength> = new Map([
  [OverLengthPolicy.OVER_LENGTH_POLICY_UNSPECIFIED, 'error'],
  [OverLengthPolicy.OVER_LENGTH_POLICY_ERROR, 'error'],
  [OverLengthPolicy.OVER_LENGTH_POLICY_TRUNCATE, 'truncate'],
  [OverLengthPolicy.OVER_LENGTH_POLICY_DROP_ROUNDS, 'drop_rounds'],
  [OverLengthPolicy.OVER_LENGTH_POLICY_DROP, 'drop'],
]);

/** A value of an enumeration, as the name that the code uses. */
function named<Value, Name>(names: ReadonlyMap<Value, Name>, what: string) {
  return z
    .custom<Value>((value) => names.has(value as Value), expected(what))
    .transform((value) => names.get(value) as Name);
}

/** DatasetFormat; null: detected. */
const formatField = named(FORMATS, 'a DatasetFormat');
/** DatasetContainer; null: detected. */
const containerField = named(CONTAINERS, 'a DatasetContainer');

const columnName = z.string().min(1, expected('a column')).max(256, expected('at most 256 characters'));
const formatFieldName = z
  .string()
  .refine(
    (field) => FORMAT_FIELDS.has(field),
    expected(`a field of a format (${[...FORMAT_FIELDS].join(', ')}), mapped to a column of the file`),
  );

/** DatasetColumns; absent: as the file has them. */
const columnsField = z
  .object({
    mapped: z.record(formatFieldName, columnName),
    ignored: z.array(columnName).max(1000, expected('at most 1000 columns')),
  })
  .optional()
  .transform((columns) => columns ?? NO_COLUMNS);
/** TrainOn. */
export const trainOnField = named(TRAIN_ON, 'a TrainOn');
/** OverLengthPolicy. */
export const overLengthField = named(OVER_LENGTH, 'an OverLengthPolicy');
/** `datasets/{id}`. */
const datasetName = resourceName('a data set: `datasets/{id}`');

const model = resourceName('a model: `models/{id}` or a path');

/** UploadDatasetHeader. */
export const uploadHeaderSchema = z.object({
  requestId,
  datasetId: resourceId,
  format: formatField,
  container: containerField,
  columns: columnsField,
  sha256: z
    .string()
    .regex(/^([0-9a-fA-F]{64})?$/, expected('a SHA-256 in 64 hexadecimal digits'))
    .transform((hex) => (hex === '' ? null : hex.toLowerCase())),
});

const validation = {
  model,
  template: templateField,
  trainOn: trainOnField,
  maxSeqLength: wholeNumber(0, UINT32),
  overLength: overLengthField,
  perDeviceTrainBatchSize: wholeNumber(1, 65_536).default(8),
  gradientAccumulationSteps: wholeNumber(1, 65_536).default(1),
  numTrainEpochs: positiveNumber(1e6).default(3),
};

/** ValidateDatasetRequest. */
export const validateSchema = z.object({ dataset: datasetName, ...validation });

/** CheckDatasetHeader; `dataset` empty: a file follows. */
export const checkSchema = z
  .object({
    validation: z.object({ dataset: optionalName, ...validation }, expected('a validation')),
    format: formatField,
    container: containerField,
    columns: columnsField,
  })
  .refine(
    ({ validation, format, container, columns }) =>
      validation.dataset === '' || (format === null && container === null && columns === NO_COLUMNS),
    {
      path: ['format'],
      message: 'expected format, container and columns only with a file; those of a stored data set are settled',
    },
  );

const source = z.discriminatedUnion(
  '$case',
  [
    z.object({ $case: z.literal('dataset'), value: datasetName }),
    z.object({
      $case: z.literal('inline'),
      value: z
        .string()
        .min(1, expected('JSONL text'))
        .refine((text) => Buffer.byteLength(text) <= INLINE_BYTES, expected(`at most ${INLINE_BYTES} bytes`)),
    }),
  ],
  'expected a source: one of dataset and inline; found none',
);

/** PreviewExamplesRequest. */
export const previewSchema = z
  .object({
    source,
    model,
    template: templateField,
    trainOn: trainOnField,
    indices: z.array(wholeNumber(0, UINT32)).max(PREVIEWS, expected(`at most ${PREVIEWS} indices`)),
    format: formatField,
  })
  .refine(({ source, format }) => source.$case === 'inline' || format === null, {
    path: ['format'],
    message: 'expected only with inline; the format of a stored data set was settled when it was uploaded',
  });

export const getSchema = z.object({ name: datasetName });
export const deleteSchema = z.object({ name: datasetName, requestId });
export const listSchema = z.object(page);
