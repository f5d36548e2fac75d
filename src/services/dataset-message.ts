import type { StoredDataset } from '../datasets/dataset-store.ts';
import type { FormatName } from '../datasets/formats.ts';
import { DatasetFormat } from '../gen/luthier/v1/common.ts';
import type { Dataset } from '../gen/luthier/v1/dataset_service.ts';

const FORMAT_NUMBERS: Readonly<Record<FormatName, DatasetFormat>> = {
  messages: DatasetFormat.DATASET_FORMAT_MESSAGES,
  prompt_completion: DatasetFormat.DATASET_FORMAT_PROMPT_COMPLETION,
  tokens: DatasetFormat.DATASET_FORMAT_TOKENS,
};

/** A layout as the contract numbers it. */
export const formatNumber = (format: FormatName): DatasetFormat => FORMAT_NUMBERS[format];

/** A stored data set as the contract shows it. */
export function datasetMessage(dataset: StoredDataset): Dataset {
  return { ...dataset, format: formatNumber(dataset.format) };
}
