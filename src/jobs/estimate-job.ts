/** What a job would be and need, from the same data and the same planner as the job; nothing is stored and no model is loaded. */
import type { Engine } from '../engine/engine.ts';
import { EstimateTrainingJobResponse, type TrainingSpec } from '../gen/luthier/v1/training_service.ts';
import type { MeasuredRates } from './measured-rates.ts';
import { planMessage, suggestionMessage } from './plan-message.ts';
import { type PrepareJobDependencies, prepareJob } from './prepare-job.ts';

export interface EstimateJobDependencies extends PrepareJobDependencies {
  readonly engine: Pick<Engine, 'info' | 'estimateTraining'>;
  readonly rates: MeasuredRates;
}

/** As `prepareJob`. */
export async function estimateJob(
  dependencies: EstimateJobDependencies,
  spec: TrainingSpec,
  signal: AbortSignal,
): Promise<EstimateTrainingJobResponse> {
  const { prepared, model, estimate } = await prepareJob(dependencies, spec, signal);
  await prepared.release();
  const { contentHash, storage } = model;
  const { memory, runTokens, maxSteps } = estimate;
  const { recomputeLayers, offloadActivations } = memory;
  const rate = dependencies.rates.of({ contentHash, storage, recomputeLayers, offloadActivations });
  return EstimateTrainingJobResponse.fromPartial({
    peakBytes: memory.totalBytes,
    fits: memory.refusal === null,
    steps: maxSteps,
    seconds: rate === null ? undefined : runTokens / rate,
    plan: planMessage(estimate, prepared, contentHash),
    runTokens,
    deviceMemoryBytes: dependencies.engine.info().totalMemoryBytes,
    suggestions: memory.suggestions.map(suggestionMessage),
    warnings: [...prepared.warnings],
  });
}
