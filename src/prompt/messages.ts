import type { Learned } from './assemble.ts';
import { PromptError } from './errors.ts';
import type { Message, Role, TrainOn } from './renderer.ts';

export const ROLES: readonly Role[] = ['system', 'user', 'assistant', 'tool'];

/** Checks what every renderer needs. Roles are a closed set: templates write them into control text. */
export function checkMessages(messages: readonly Message[]): void {
  if (messages.length === 0) throw new PromptError('INVALID_MESSAGES', 'expected at least one message, found none');
  messages.forEach((message, index) => {
    if (!ROLES.includes(message.role)) {
      throw new PromptError(
        'INVALID_MESSAGES',
        `messages[${index}].role is ${JSON.stringify(message.role)}; expected one of ${ROLES.join(', ')}`,
        index,
      );
    }
    if (message.weight !== undefined && message.role !== 'assistant') {
      throw new PromptError(
        'INVALID_MESSAGES',
        `messages[${index}].weight: only assistant messages have a weight, this one is ${message.role}`,
        index,
      );
    }
  });
}

/** The messages whose answers are learned. */
export function learnedMessages(messages: readonly Message[], trainOn: TrainOn): Learned {
  if (trainOn === 'all') return 'all';
  const answers = messages.flatMap((message, index) => (message.role === 'assistant' ? [index] : []));
  const chosen = trainOn === 'last' ? answers.slice(-1) : answers;
  return new Set(chosen.filter((index) => messages[index]?.weight !== 0));
}

/** A `prompt`/`completion` example as messages: with the `concat-eos` template, raw text, of which the completion is learned. */
export function promptCompletionMessages(prompt: string, completion: string): Message[] {
  return [
    { role: 'user', content: prompt },
    { role: 'assistant', content: completion },
  ];
}
