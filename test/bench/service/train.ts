/**
 * What a training costs over gRPC beside the engine alone: processor time of the serving process for each step. Both do the same
 * steps on the same ids in a fresh process and take turns. What they computed is compared, too: equal losses mean equal work. The
 * engine's threads wait for each other without sleeping, which varies more than the service costs; so the time of all other threads
 * is told as well.
 */
import { DatasetFormat } from '../../../clients/typescript/src/index.ts';
import { startProgram } from './children.ts';
import { loadAverage, processorSeconds, secondsAroundEngine, secondsSince } from './measure.ts';
import { MODEL_NAME, startServer } from './server.ts';
import { meanInterval, median, round } from './statistics.ts';
import { jsonLines, type Shape, trainingSpec } from './workload.ts';

export interface TrainOptions {
  readonly model: string;
  readonly threads: number;
  readonly repetitions: number;
  /** Steps that are measured. */
  readonly steps: number;
  readonly batch: number;
  readonly length: number;
}

interface Step {
  readonly step: number;
  readonly loss: number;
}

interface Cost {
  readonly processorSecondsPerStep: number;
  /** The part of it that threads other than the engine's used. */
  readonly aroundEnginePerStep: number;
  readonly secondsPerStep: number;
  readonly losses: readonly number[];
}

/**
 * Reads the steps of a process, from the report of the first to that of step `counted + 1`. One more must follow: what comes behind
 * the last step, such as the storing of an adapter, would otherwise reach into the measurement.
 */
async function measure(pid: number, counted: number, steps: AsyncIterable<Step>): Promise<Cost> {
  const losses: number[] = [];
  const marks: { readonly clock: number; readonly processor: number; readonly aroundEngine: number }[] = [];
  for await (const { step, loss } of steps) {
    losses.push(loss);
    if (step !== 1 && step !== counted + 1) continue;
    const clock = performance.now();
    marks.push({ clock, processor: processorSeconds(pid), aroundEngine: secondsAroundEngine(pid) });
  }
  const [from, to] = marks;
  if (from === undefined || to === undefined || losses.length !== counted + 2) {
    throw new Error(`expected ${counted + 2} steps, found ${losses.length}`);
  }
  return {
    processorSecondsPerStep: (to.processor - from.processor) / counted,
    aroundEnginePerStep: (to.aroundEngine - from.aroundEngine) / counted,
    secondsPerStep: (to.clock - from.clock) / 1000 / counted,
    losses,
  };
}

async function engineAlone({ model, threads, steps }: TrainOptions, shape: Shape): Promise<Cost> {
  const args = [model, threads, shape.batch, shape.length, shape.steps].map(String);
  const program = startProgram<Step>(new URL('./engine-alone.ts', import.meta.url), args);
  return measure(program.pid, steps, program.reports);
}

async function overGrpc({ model, threads, steps }: TrainOptions, shape: Shape): Promise<Cost> {
  await using server = await startServer({ threads, model });
  const { client, pid } = server;
  const format = DatasetFormat.DATASET_FORMAT_TOKENS;
  const dataset = await client.uploadDataset([jsonLines(shape)], { format });
  const events = client.train({ ...trainingSpec(shape), model: MODEL_NAME, dataset: dataset.name });
  async function* stepsOf(): AsyncGenerator<Step> {
    for await (const { event } of events) {
      if (event?.$case === 'step') yield { step: event.value.globalStep, loss: event.value.loss };
    }
  }
  return await measure(pid, steps, stepsOf());
}

const milliseconds = (seconds: number): number => round(1000 * seconds);

const shown = (cost: Omit<Cost, 'losses'>) => ({
  processor_seconds_per_step: round(cost.processorSecondsPerStep, 4),
  around_engine_ms_per_step: milliseconds(cost.aroundEnginePerStep),
  seconds_per_step: round(cost.secondsPerStep, 4),
});

const medians = (costs: readonly Cost[]) =>
  shown({
    processorSecondsPerStep: median(costs.map((cost) => cost.processorSecondsPerStep)),
    aroundEnginePerStep: median(costs.map((cost) => cost.aroundEnginePerStep)),
    secondsPerStep: median(costs.map((cost) => cost.secondsPerStep)),
  });

export async function compareTraining(options: TrainOptions, print: (line: object) => void): Promise<void> {
  const { batch, length, steps, threads, repetitions } = options;
  const shape = { batch, length, steps: steps + 2 };
  const run = async (what: string, program: typeof engineAlone): Promise<Cost> => {
    const [load, began] = [loadAverage(), performance.now()];
    const cost = await program(options, shape);
    print({ what, threads, ...shown(cost), run_seconds: round(secondsSince(began), 1), load_average_before: load });
    return cost;
  };
  const [alone, grpc]: [Cost[], Cost[]] = [[], []];
  for (let repetition = 0; repetition < repetitions; repetition++) {
    alone.push(await run('engine alone', engineAlone));
    grpc.push(await run('Train over gRPC', overGrpc));
  }
  const pairs = alone.flatMap((ours, index) => {
    const theirs = grpc[index];
    return theirs === undefined ? [] : [{ ours, theirs }];
  });
  const differences = pairs.map(
    ({ ours, theirs }) => 100 * (theirs.processorSecondsPerStep / ours.processorSecondsPerStep - 1),
  );
  const { mean, interval } = meanInterval(differences);
  const around = pairs.map(
    ({ ours, theirs }) =>
      (100 * (theirs.aroundEnginePerStep - ours.aroundEnginePerStep)) / ours.processorSecondsPerStep,
  );
  const losses = [...alone, ...grpc].map((cost) => JSON.stringify(cost.losses));
  print({
    comparison: `train ${batch}x${length} r=8, ${steps} steps: gRPC against the engine alone`,
    threads,
    pairs: repetitions,
    engine_alone: medians(alone),
    grpc: medians(grpc),
    difference_percent: differences.map((difference) => round(difference, 2)),
    difference_percent_mean: round(mean, 2),
    difference_percent_95: interval?.map((bound) => round(bound, 2)) ?? null,
    around_engine_difference_percent_mean: round(meanInterval(around).mean),
    around_engine_difference_percent_95: meanInterval(around).interval?.map((bound) => round(bound)) ?? null,
    same_losses: new Set(losses).size === 1,
  });
}
