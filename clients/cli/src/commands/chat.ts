/** `luthier chat`: a conversation of many turns; answers appear as they are drawn. */
import { createInterface } from 'node:readline/promises';
import { Command } from 'commander';
import type { Message } from '../../../typescript/src/index.ts';
import { LuthierError } from '../../../typescript/src/index.ts';
import { type ConnectionOptions, type Session, withConnection, withSession } from '../connection.ts';
import { type Io, paint, printLine } from '../io.ts';
import { type SamplingOptions, samplingOf, withSampling } from '../sampling.ts';
import { TEMPLATE_VALUE, templateOf } from '../template-argument.ts';
import { streamAnswer, usageLine, type Weights, type WeightsOptions, weightsOf, withWeights } from './generate.ts';

interface ChatFlags extends ConnectionOptions, WeightsOptions, SamplingOptions {
  readonly system?: string;
  readonly template?: string;
  readonly allowTemplateMismatch?: boolean;
}

const HELP = [
  '/reset  forget the conversation',
  '/undo   take the last question and answer back',
  '/exit   leave (or Ctrl-D)',
];

const message = (role: string, content: string): Message => ({
  role,
  content,
  weight: undefined,
  toolCalls: [],
});

/** One conversation: what was said, and how the next answer is asked for. */
class Conversation {
  readonly #session: Session;
  readonly #options: ChatFlags;
  readonly #weights: Weights;
  readonly #template: string;
  #messages: Message[] = [];

  constructor(session: Session, options: ChatFlags, weights: Weights) {
    this.#session = session;
    this.#options = options;
    this.#weights = weights;
    this.#template = templateOf(options.template ?? '');
    this.reset();
  }

  reset(): void {
    this.#messages = this.#options.system === undefined ? [] : [message('system', this.#options.system)];
  }

  undo(): void {
    const question = this.#messages.findLastIndex(({ role }) => role === 'user');
    if (question >= 0) this.#messages.length = question;
  }

  /** Streams the answer. An answer that was interrupted or failed takes its question back with it. */
  async ask(question: string, signal: AbortSignal): Promise<void> {
    const { io, json } = this.#session;
    const messages = [...this.#messages, message('user', question)];
    const prompt = {
      input: { $case: 'messages' as const, value: { messages } },
      template: this.#template,
      allowTemplateMismatch: this.#options.allowTemplateMismatch ?? false,
    };
    const request = { ...this.#weights, prompt, sampling: samplingOf(this.#options) };
    const { text, finished } = await streamAnswer(this.#session, request, signal);
    this.#messages = [...messages, message('assistant', text)];
    if (json) return;
    await printLine(io.stdout);
    if (finished !== null && io.stderr.isTTY) await printLine(io.stderr, paint(io.stderr, 'dim', usageLine(finished)));
  }
}

async function converse(session: Session, options: ChatFlags): Promise<void> {
  const { io } = session;
  const conversation = new Conversation(session, options, await weightsOf(session, options));
  const interactive = io.stdin.isTTY === true && !session.json;
  const lines = createInterface({
    input: io.stdin,
    ...(interactive ? { output: io.stdout } : {}),
    terminal: interactive,
  });
  let answering: AbortController | null = null;
  // At the prompt Ctrl-C leaves; during an answer it ends the answer.
  const interrupt = () => (answering === null ? lines.close() : answering.abort());
  lines.on('SIGINT', interrupt);
  process.on('SIGINT', interrupt);
  if (interactive) await printLine(io.stderr, paint(io.stderr, 'dim', HELP.join('\n')));
  lines.setPrompt(paint(io.stdout, ['bold', 'cyan'], '› '));
  if (interactive) lines.prompt();
  try {
    for await (const line of lines) {
      const text = line.trim();
      if (text === '/exit') break;
      else if (text === '/reset') conversation.reset();
      else if (text === '/undo') conversation.undo();
      else if (text.startsWith('/') && interactive) await printLine(io.stderr, HELP.join('\n'));
      else if (text !== '') {
        answering = new AbortController();
        try {
          await conversation.ask(text, answering.signal);
        } catch (error) {
          const goOn = answering.signal.aborted || (interactive && error instanceof LuthierError);
          if (!goOn) throw error;
          const why = answering.signal.aborted ? 'interrupted' : (error as LuthierError).message;
          await printLine(io.stderr, `\n${paint(io.stderr, 'yellow', why)}`);
        } finally {
          answering = null;
        }
      }
      if (interactive) lines.prompt();
    }
  } finally {
    process.off('SIGINT', interrupt);
    lines.close();
  }
}

/** The command. */
export function chatCommand(io: Io): Command {
  const command = new Command('chat')
    .description(
      'a conversation with a base model or an adapter; without a terminal, each line of standard input is one turn',
    )
    .option('--system <text>', 'system message')
    .option(`--template ${TEMPLATE_VALUE}`, "a template's id or file (default: the adapter's, else the model's own)")
    .option('--allow-template-mismatch', 'use another template than the adapter was trained with');
  withConnection(withSampling(withWeights(command)));
  return command.action((options: ChatFlags) => withSession(io, options, (session) => converse(session, options)));
}
