/** `luthier tokenize`, `detokenize` and `render`. */
import { Command } from 'commander';
import { DetokenizeResponse, RenderPromptResponse, TokenizeResponse } from '../../../typescript/src/index.ts';
import {
  type ConnectionOptions,
  printJson,
  printLines,
  type Session,
  withConnection,
  withSession,
} from '../connection.ts';
import { formatTable } from '../format.ts';
import type { Io } from '../io.ts';
import { modelName } from '../names.ts';
import { parseTokenIds, readConversation } from '../prompt-input.ts';
import { TEMPLATE_VALUE, templateOf } from '../template-argument.ts';

const tokenTable = (ids: readonly number[], pieces: readonly string[]): string[] =>
  formatTable(
    ['ID', 'TEXT'],
    ids.map((id, index) => [String(id), JSON.stringify(pieces[index] ?? '')]),
  );

interface TokenizeFlags extends ConnectionOptions {
  readonly model: string;
  readonly parseSpecial?: boolean;
  readonly addSpecialTokens?: boolean;
}

async function tokenize(session: Session, text: string, options: TokenizeFlags): Promise<void> {
  const { parseSpecial = false, addSpecialTokens = false } = options;
  const request = { model: modelName(options.model), text, parseSpecial, addSpecialTokens };
  const response = await session.client.tokenize(request);
  if (session.json) return printJson(session, TokenizeResponse, response);
  await printLines(session, [...tokenTable(response.tokenIds, response.pieces), `${response.tokenIds.length} tokens`]);
}

/** `luthier tokenize`. */
export function tokenizeCommand(io: Io): Command {
  const command = new Command('tokenize').argument('<text>').description('text to ids');
  command.requiredOption('--model <name>', 'whose tokenizer: a registered name or a path');
  command.option('--parse-special', 'control tokens written in the text become control tokens');
  command.option('--add-special-tokens', 'add the begin token where the tokenizer does');
  return withConnection(command).action((text: string, options: TokenizeFlags) =>
    withSession(io, options, (session) => tokenize(session, text, options)),
  );
}

interface DetokenizeFlags extends ConnectionOptions {
  readonly model: string;
  readonly skipSpecialTokens?: boolean;
}

/** `luthier detokenize`. */
export function detokenizeCommand(io: Io): Command {
  const command = new Command('detokenize').argument('<ids>', 'such as 1,2,3').description('ids to text');
  command.requiredOption('--model <name>', 'whose tokenizer: a registered name or a path');
  command.option('--skip-special-tokens', 'leave control tokens out');
  return withConnection(command).action((ids: string, options: DetokenizeFlags) =>
    withSession(io, options, async (session) => {
      const { skipSpecialTokens = false } = options;
      const tokenIds = parseTokenIds(ids);
      const text = await session.client.detokenize({ model: modelName(options.model), tokenIds, skipSpecialTokens });
      await (session.json ? printJson(session, DetokenizeResponse, { text }) : printLines(session, [text]));
    }),
  );
}

interface RenderFlags extends ConnectionOptions {
  readonly model: string;
  readonly messages: string;
  readonly template?: string;
  readonly generationPrompt: boolean;
}

/** `luthier render`. */
export function renderCommand(io: Io): Command {
  const command = new Command('render').description('the ids that generate would read for messages');
  command.requiredOption('--model <name>', 'whose tokenizer and template: a registered name or a path');
  command.requiredOption('--messages <file>', 'JSON file with messages; - reads standard input');
  command.option(`--template ${TEMPLATE_VALUE}`, "a template's id or file (default: the model's own)");
  command.option('--no-generation-prompt', 'end behind the last message, not where an answer begins');
  return withConnection(command).action((options: RenderFlags) =>
    withSession(io, options, async (session) => {
      const response = await session.client.renderPrompt({
        model: modelName(options.model),
        ...readConversation(options.messages),
        template: templateOf(options.template ?? ''),
        addGenerationPrompt: options.generationPrompt,
      });
      if (session.json) return printJson(session, RenderPromptResponse, response);
      const { template, tokenIds, pieces } = response;
      const of = template === undefined ? '' : `, template ${template.id} ${template.version}`;
      await printLines(session, [...tokenTable(tokenIds, pieces), `${tokenIds.length} tokens${of}`]);
    }),
  );
}
