/** `luthier generate`: text from a base model or an adapter, as it is drawn. */
import { Command } from 'commander';
import {
  type DeepPartial,
  FinishReason,
  type GenerateRequest,
  GenerateResponse,
  type GenerationFinished,
  type LoadIn,
} from '../../../typescript/src/index.ts';
import { resolveAdapter } from '../adapter-argument.ts';
import { type ConnectionOptions, printJson, type Session, withConnection, withSession } from '../connection.ts';
import { CliError, EXIT } from '../failure.ts';
import { onInterrupt } from '../interrupts.ts';
import { type Io, paint, print, printLine } from '../io.ts';
import { modelName } from '../names.ts';
import { type PromptOptions, promptOf, withPrompt } from '../prompt-input.ts';
import { type SamplingOptions, samplingOf, withSampling } from '../sampling.ts';
import { LOAD_IN_HELP, loadInOf } from '../training-flags.ts';
import type { SetExitCode } from './set-exit-code.ts';

/** Options that say which weights are used. */
export interface WeightsOptions {
  readonly model?: string;
  readonly adapter?: string;
  readonly loadIn?: string;
}

/** The fields of a request that say which weights are used. */
export interface Weights {
  readonly model: string;
  readonly adapter: string;
  readonly loadIn: LoadIn;
}

/** Adds the options that say which weights are used. */
export function withWeights(command: Command): Command {
  return command
    .option('--model <name>', 'base model: a registered name or a path')
    .option('--adapter <name>', "an adapter, a job's name, or a PEFT folder; it knows its base")
    .option('--load-in <type>', LOAD_IN_HELP);
}

/** What a request says of its weights. */
export async function weightsOf(session: Session, options: WeightsOptions): Promise<Weights> {
  const loadIn = loadInOf(options.loadIn);
  const model = modelName(options.model ?? '');
  const adapter = options.adapter === undefined ? '' : await resolveAdapter(session.client, options.adapter, model);
  if (model === '' && adapter === '') throw new CliError('name --model or --adapter');
  return { model, adapter, loadIn };
}

const REASONS = new Map<number, string>([
  [FinishReason.FINISH_REASON_EOS, 'end token'],
  [FinishReason.FINISH_REASON_STOP, 'stop string'],
  [FinishReason.FINISH_REASON_LENGTH, 'length'],
  [FinishReason.FINISH_REASON_CANCELLED, 'cancelled'],
]);

/** Such as `[end token; 12 + 40 tokens, 38.2 tok/s]`. */
export function usageLine(finished: GenerationFinished): string {
  const reason = REASONS.get(finished.reason) ?? 'unknown end';
  const { promptTokens, completionTokens, tokensPerSecond } = finished;
  return `[${reason}; ${promptTokens} + ${completionTokens} tokens, ${tokensPerSecond.toFixed(1)} tok/s]`;
}

/** Streams one answer to standard output, warnings to standard error; returns its text and how it ended. */
export async function streamAnswer(
  session: Session,
  request: DeepPartial<GenerateRequest>,
  signal: AbortSignal,
): Promise<{ text: string; finished: GenerationFinished | null }> {
  const { client, io, json } = session;
  let text = '';
  let finished: GenerationFinished | null = null;
  for await (const response of client.generate(request, { signal })) {
    if (json) await printJson(session, GenerateResponse, response);
    switch (response.event?.$case) {
      case 'started':
        if (json) break;
        for (const warning of response.event.value.warnings) {
          await printLine(io.stderr, `${paint(io.stderr, 'yellow', 'warning')}  ${warning}`);
        }
        break;
      case 'delta':
        text += response.event.value.text;
        if (!json) await print(io.stdout, response.event.value.text);
        break;
      case 'finished':
        finished = response.event.value;
        break;
      default:
    }
  }
  return { text, finished };
}

interface GenerateFlags extends ConnectionOptions, WeightsOptions, PromptOptions, SamplingOptions {
  readonly logprobs?: boolean;
}

/** The command. */
export function generateCommand(io: Io, setExitCode: SetExitCode): Command {
  const command = new Command('generate').description('text from a base model or an adapter');
  command.option('--logprobs', 'with --json: the log-probability of every token');
  withConnection(withSampling(withPrompt(withWeights(command))));
  return command.action(async (options: GenerateFlags) => {
    const prompt = promptOf(options);
    const controller = new AbortController();
    const work = (session: Session) =>
      onInterrupt(
        () => controller.abort(),
        async () => {
          const request = { ...(await weightsOf(session, options)), prompt, sampling: samplingOf(options) };
          const logprobs = options.logprobs === true;
          try {
            const { finished } = await streamAnswer(session, { ...request, logprobs }, controller.signal);
            if (session.json) return EXIT.ok;
            await printLine(io.stdout);
            if (finished !== null && io.stderr.isTTY)
              await printLine(io.stderr, paint(io.stderr, 'dim', usageLine(finished)));
            return EXIT.ok;
          } catch (error) {
            if (!controller.signal.aborted) throw error;
            if (!session.json) await printLine(io.stdout);
            return EXIT.interrupted;
          }
        },
      );
    setExitCode(await withSession(io, options, work));
  });
}
