import type { CheckReport } from '../datasets/checks/check-examples.ts';
import type { StoredDataset } from '../datasets/dataset-store.ts';
import type { Columns, Compression, Container, FileLayout } from '../datasets/file-layout.ts';
import type { FormatName } from '../datasets/formats.ts';
import type { OverLength } from '../datasets/over-length.ts';
import {
  type DatasetColumns,
  DatasetCompression,
  DatasetContainer,
  DatasetFormat,
  OverLengthPolicy,
} from '../gen/luthier/v1/common.ts';
import { type Dataset, DatasetReport } from '../gen/luthier/v1/dataset_service.ts';

const FORMAT_NUMBERS: Readonly<Record<FormatName, DatasetFormat>> = {
  messages: DatasetFormat.DATASET_FORMAT_MESSAGES,
  prompt_completion: DatasetFormat.DATASET_FORMAT_PROMPT_COMPLETION,
  tokens: DatasetFormat.DATASET_FORMAT_TOKENS,
  conversations: DatasetFormat.DATASET_FORMAT_CONVERSATIONS,
  instruction: DatasetFormat.DATASET_FORMAT_INSTRUCTION,
  rounds: DatasetFormat.DATASET_FORMAT_ROUNDS,
  text: DatasetFormat.DATASET_FORMAT_TEXT,
};

const CONTAINER_NUMBERS: Readonly<Record<Container, DatasetContainer>> = {
  jsonl: DatasetContainer.DATASET_CONTAINER_JSONL,
  json: DatasetContainer.DATASET_CONTAINER_JSON,
  csv: DatasetContainer.DATASET_CONTAINER_CSV,
  parquet: DatasetContainer.DATASET_CONTAINER_PARQUET,
};

const COMPRESSION_NUMBERS: Readonly<Record<Compression, DatasetCompression>> = {
  none: DatasetCompression.DATASET_COMPRESSION_NONE,
  gzip: DatasetCompression.DATASET_COMPRESSION_GZIP,
  zstd: DatasetCompression.DATASET_COMPRESSION_ZSTD,
};

const POLICY_NUMBERS: Readonly<Record<OverLength, OverLengthPolicy>> = {
  error: OverLengthPolicy.OVER_LENGTH_POLICY_ERROR,
  truncate: OverLengthPolicy.OVER_LENGTH_POLICY_TRUNCATE,
  drop_rounds: OverLengthPolicy.OVER_LENGTH_POLICY_DROP_ROUNDS,
  drop: OverLengthPolicy.OVER_LENGTH_POLICY_DROP,
};

const layoutMessage = ({ format, container, compression }: FileLayout) => ({
  format: format === null ? DatasetFormat.DATASET_FORMAT_UNSPECIFIED : FORMAT_NUMBERS[format],
  container: CONTAINER_NUMBERS[container],
  compression: COMPRESSION_NUMBERS[compression],
});

function columnsMessage({ mapped, ignored }: Columns): DatasetColumns | undefined {
  const none = Object.keys(mapped).length === 0 && ignored.length === 0;
  return none ? undefined : { mapped: { ...mapped }, ignored: [...ignored] };
}

/** A stored data set as the contract shows it. */
export function datasetMessage(dataset: StoredDataset): Dataset {
  return { ...dataset, ...layoutMessage(dataset), columns: columnsMessage(dataset.columns) };
}

/** A check's result as the contract shows it. @param sizeBytes Of the file, as it is stored. */
export function reportMessage(report: CheckReport, sizeBytes: number): DatasetReport {
  const { layout, problems, kinds, template } = report;
  return DatasetReport.create({
    ...report,
    ...(layout === null ? {} : layoutMessage(layout)),
    sizeBytes,
    template: template === null ? undefined : { ...template },
    problems: problems.shown.map((problem) => ({ ...problem })),
    problemCount: problems.count,
    warnings: [...report.warnings],
    lengths: [...report.lengths],
    rounds: [...report.rounds],
    longestExamples: [...report.longestExamples],
    kinds: kinds.map((kind) => ({ ...kind, problems: kind.problems.map((problem) => ({ ...problem })) })),
    overLengthEffects: report.overLengthEffects.map((effect) => ({ ...effect, policy: POLICY_NUMBERS[effect.policy] })),
  });
}
