/** `luthier score`: the log-probability of every token of a prompt. */
import { Command } from 'commander';
import { ScoreTokensResponse } from '../../../typescript/src/index.ts';
import {
  type ConnectionOptions,
  numberOption,
  printJson,
  printLines,
  type Session,
  withConnection,
  withSession,
} from '../connection.ts';
import { formatTable } from '../format.ts';
import type { Io } from '../io.ts';
import { type PromptOptions, promptOf, withPrompt } from '../prompt-input.ts';
import { printWarnings } from './adapter-files.ts';
import { type WeightsOptions, weightsOf, withWeights } from './generate.ts';

interface ScoreFlags extends ConnectionOptions, WeightsOptions, PromptOptions {
  readonly topLogits: number;
}

async function score(session: Session, options: ScoreFlags): Promise<void> {
  const prompt = promptOf(options);
  const weights = await weightsOf(session, options);
  const response = await session.client.scoreTokens({ ...weights, prompt, topLogits: options.topLogits });
  if (session.json) return printJson(session, ScoreTokensResponse, response);
  await printWarnings(session, response.warnings);
  const rows = response.tokens.map((token) => [
    String(token.tokenId),
    token.logprob === undefined ? '' : token.logprob.toFixed(4),
    JSON.stringify(token.text),
    token.topLogits.map(({ tokenId, logit }) => `${tokenId}:${logit.toFixed(3)}`).join(' '),
  ]);
  const headings = ['ID', 'LOGPROB', 'TEXT', ...(options.topLogits > 0 ? ['NEXT'] : [])];
  await printLines(session, [
    ...formatTable(headings, rows),
    `mean negative log-likelihood ${response.meanNll.toFixed(4)}`,
  ]);
}

/** The command. */
export function scoreCommand(io: Io): Command {
  const command = new Command('score').description('log-probability of every token of a prompt');
  command.option('--top-logits <n>', 'the n highest next-token logits at each position', numberOption(0, true), 0);
  withConnection(withPrompt(withWeights(command)));
  return command.action((options: ScoreFlags) => withSession(io, options, (session) => score(session, options)));
}
