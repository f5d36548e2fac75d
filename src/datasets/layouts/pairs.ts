/** The layouts that are a question and an answer by name: prompt/completion, instruction, rounds, text. */

import { promptCompletionMessages } from '../../prompt/messages.ts';
import type { Message } from '../../prompt/renderer.ts';
import { checkKeys, type Fields, messageOf, textAt, textField } from './fields.ts';
import type { Issues } from './issues.ts';

const PROMPT_COMPLETION: ReadonlySet<string> = new Set(['prompt', 'completion']);
const INSTRUCTION: ReadonlySet<string> = new Set(['instruction', 'input', 'output']);
const ROUNDS: ReadonlySet<string> = new Set(['query', 'response', 'history', 'system']);
const TEXT: ReadonlySet<string> = new Set(['text']);

/** `{"prompt", "completion"}`. */
export function readPromptCompletion(example: Fields, issues: Issues): Message[] {
  checkKeys(example, '', PROMPT_COMPLETION, issues);
  return promptCompletionMessages(textField(example, 'prompt', issues), textField(example, 'completion', issues));
}

/** Alpaca's and BELLE's `{"instruction", "input"?, "output"}`. The input, where there is one, follows the instruction on a new line. */
export function readInstruction(example: Fields, issues: Issues): Message[] {
  checkKeys(example, '', INSTRUCTION, issues);
  const instruction = textField(example, 'instruction', issues);
  const input = textField(example, 'input', issues, true);
  return promptCompletionMessages(
    input === '' ? instruction : `${instruction}\n${input}`,
    textField(example, 'output', issues),
  );
}

function readHistory(history: unknown, issues: Issues): Message[] {
  if (history === undefined) return [];
  if (!Array.isArray(history)) {
    issues.wrong('history', 'a list of rounds: [[query, response], …]', history);
    return [];
  }
  const messages: Message[] = [];
  for (const [index, round] of history.entries()) {
    const place = `history[${index}]`;
    if (!Array.isArray(round) || round.length !== 2) issues.wrong(place, 'a round: [query, response]', round);
    else {
      messages.push(messageOf('user', textAt(round[0], `${place}[0]`, issues)));
      messages.push(messageOf('assistant', textAt(round[1], `${place}[1]`, issues)));
    }
    if (issues.full) break;
  }
  return messages;
}

/** `{"query", "response", "history"?: [[query, response], …], "system"?}`: history first, then the newest round. */
export function readRounds(example: Fields, issues: Issues): Message[] {
  checkKeys(example, '', ROUNDS, issues);
  const system = example.system === undefined ? [] : [messageOf('system', textField(example, 'system', issues))];
  return [
    ...system,
    ...readHistory(example.history, issues),
    messageOf('user', textField(example, 'query', issues)),
    messageOf('assistant', textField(example, 'response', issues)),
  ];
}

/** `{"text"}`: every token is learned. An answer to an empty question, which the template `concat-eos` renders as the text and the end token. */
export function readText(example: Fields, issues: Issues): Message[] {
  checkKeys(example, '', TEXT, issues);
  return promptCompletionMessages('', textField(example, 'text', issues));
}
