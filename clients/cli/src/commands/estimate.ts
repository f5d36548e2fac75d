/** `luthier estimate`: what a job would be and need, before it is started. */
import { Command } from 'commander';
import { EstimateTrainingJobResponse, Status } from '../../../typescript/src/index.ts';
import {
  type ConnectionOptions,
  printJson,
  printLines,
  type Session,
  withConnection,
  withSession,
} from '../connection.ts';
import { deleteUploads } from '../delete-uploads.ts';
import { EXIT, exitCodeOf } from '../failure.ts';
import { formatBytes, formatCount, formatPacking, formatRecord, formatSeconds } from '../format.ts';
import type { Io } from '../io.ts';
import { settingsOf, uploadInput, withTrainingFlags } from '../job-input.ts';
import type { TrainSettings } from '../train-settings.ts';
import type { SetExitCode } from './set-exit-code.ts';

/** RESOURCE_EXHAUSTED: what the job would end with. */
const DOES_NOT_FIT = exitCodeOf(Status.RESOURCE_EXHAUSTED);

function describe({
  plan,
  fits,
  seconds,
  runTokens,
  deviceMemoryBytes,
  ...rest
}: EstimateTrainingJobResponse): string[] {
  const memory = plan?.memory;
  const entries: [string, string][] = [];
  if (plan !== undefined) {
    const held = plan.evalExamples > 0 ? `, ${plan.evalExamples} held out` : '';
    const { packing } = plan;
    const packed: [string, string][] = packing === undefined ? [] : [['packed', formatPacking(packing)]];
    entries.push(
      [
        'examples',
        `${plan.examples}${held}, ${formatCount(plan.labelTokens)} of ${formatCount(plan.tokens)} tokens learned`,
      ],
      ...packed,
      ['steps', `${plan.maxSteps}, ${formatCount(runTokens)} tokens`],
      ['trainable', `${formatCount(plan.trainableParameters)} parameters in ${plan.targetModules.join(', ')}`],
    );
  }
  entries.push(['time', seconds === undefined ? 'unknown until a job like this one has run' : formatSeconds(seconds)]);
  if (memory !== undefined) {
    const pinned: [string, string][] =
      memory.pinnedHostBytes > 0 ? [['host', `${formatBytes(memory.pinnedHostBytes)} locked beside it`]] : [];
    const free = memory.freeBytes === undefined ? 'unknown' : formatBytes(memory.freeBytes);
    entries.push(
      ['memory', `${formatBytes(memory.totalBytes)}, of which ${formatBytes(memory.heldBytes)} are held already`],
      ['  weights', formatBytes(memory.weightBytes)],
      ['  adapter', formatBytes(memory.adapterBytes)],
      [
        '  activations',
        `${formatBytes(memory.activationBytes)}, ${memory.recomputeLayers} of ${memory.layers} layers recomputed`,
      ],
      ['  evaluation', formatBytes(memory.evaluationBytes)],
      ['  scratch', formatBytes(memory.scratchBytes)],
      ...pinned,
      ['free', `${free} of ${formatBytes(deviceMemoryBytes)}, of which ${formatBytes(memory.marginBytes)} stay free`],
    );
  }
  entries.push(['fits', fits ? 'yes' : 'no']);
  const advice = rest.suggestions.map(({ description }) => `would fit: ${description}`);
  return [...rest.warnings.map((warning) => `warning  ${warning}`), ...formatRecord(entries), ...advice];
}

async function estimate(session: Session, settings: TrainSettings): Promise<number> {
  const { spec, uploaded } = await uploadInput(session, settings);
  try {
    const answer = await session.client.estimateTrainingJob(spec);
    if (session.json) await printJson(session, EstimateTrainingJobResponse, answer);
    else await printLines(session, describe(answer));
    return answer.fits ? EXIT.ok : DOES_NOT_FIT;
  } finally {
    await deleteUploads(session, uploaded);
  }
}

/** The command. */
export function estimateCommand(io: Io, setExitCode: SetExitCode): Command {
  const command = withTrainingFlags(
    new Command('estimate').description('steps, tokens, memory and time of a job; takes the options of train'),
  );
  return withConnection(command).action(async (options: ConnectionOptions) => {
    const settings = settingsOf(command);
    setExitCode(await withSession(io, options, (session) => estimate(session, settings)));
  });
}
