/** Small data sets for the tiny model. */
import { DatasetFormat, type LuthierClient, type TrainingEvent } from '../../../clients/typescript/src/index.ts';

/** `count` conversations of two rounds, as JSONL. */
export function conversations(count: number): string {
  const line = (index: number) =>
    JSON.stringify({
      messages: [
        { role: 'user', content: `What is ${index}?` },
        { role: 'assistant', content: `It is ${index}.` },
        { role: 'user', content: 'And twice that?' },
        { role: 'assistant', content: `It is ${2 * index}. 好 🙂` },
      ],
    });
  return `${Array.from({ length: count }, (_, index) => line(index)).join('\n')}\n`;
}

/** Uploads `conversations(count)` and returns its name. */
export async function uploadConversations(client: LuthierClient, count: number): Promise<string> {
  return (await client.uploadDataset([conversations(count)], { format: DatasetFormat.DATASET_FORMAT_MESSAGES })).name;
}

/** A spec for the tiny model: small steps, no evaluation. */
export function spec(dataset: string, more: Record<string, unknown> = {}) {
  return {
    model: 'models/tiny',
    dataset,
    learningRate: 1e-2,
    perDeviceTrainBatchSize: 2,
    lora: { r: 4, loraAlpha: 8 },
    ...more,
  };
}

/** Reads events until `enough` says so or the stream ends. */
export async function collect(
  events: AsyncIterable<TrainingEvent>,
  enough: (event: TrainingEvent) => boolean = () => false,
): Promise<TrainingEvent[]> {
  const all: TrainingEvent[] = [];
  for await (const event of events) {
    all.push(event);
    if (enough(event)) break;
  }
  return all;
}

/** Everything that a stream yields. */
export async function everything<T>(stream: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const one of stream) all.push(one);
  return all;
}

/** The one field that an event carries, such as `step`. */
export const kind = (event: TrainingEvent): string => event.event?.$case ?? 'none';

/** The losses of the steps among events. */
export function losses(events: readonly TrainingEvent[]): number[] {
  return events.flatMap(({ event }) => (event?.$case === 'step' ? [event.value.loss] : []));
}
