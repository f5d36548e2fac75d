/** The templates that have a name. */
import type { TurnTemplateDefinition } from './definition.ts';

/** Fields of a round-based template, as `[Round n]` models write it. */
export interface RoundsOptions {
  readonly indexBase: number;
  /** `half`: `问:`, `full`: `问：`. */
  readonly colon: 'half' | 'full';
  /** Between the round's header, its question and its answer, and behind the answer. */
  readonly separator: string;
  readonly bareFirstTurn: boolean;
}

/** `[Round n]` + question + answer. */
export function roundsDefinition(options: RoundsOptions): TurnTemplateDefinition {
  const colon = options.colon === 'full' ? '：' : ':';
  return {
    kind: 'turns',
    turnStart: `[Round {n}]${options.separator}问${colon}`,
    answerStart: `${options.separator}答${colon}`,
    turnEnd: options.separator,
    indexBase: options.indexBase,
    bareFirstTurn: options.bareFirstTurn,
    eosInHistory: false,
    systemEnd: options.separator,
    bos: 'tokenizer',
    stopStrings: [`${options.separator}[Round `],
  };
}

const instruction = (question: string, answer: string): TurnTemplateDefinition => ({
  kind: 'turns',
  turnStart: question,
  answerStart: `\n\n${answer}`,
  turnEnd: '\n\n',
  indexBase: 1,
  bareFirstTurn: false,
  eosInHistory: false,
  systemEnd: '\n\n',
  bos: 'always',
  stopStrings: [`\n\n${question.trimEnd()}`],
});

const concat = (eosInHistory: boolean): TurnTemplateDefinition => ({
  kind: 'turns',
  turnStart: '',
  answerStart: '',
  turnEnd: '',
  indexBase: 1,
  bareFirstTurn: false,
  eosInHistory,
  systemEnd: '',
  bos: 'tokenizer',
  stopStrings: [],
});

export interface Preset {
  readonly version: string;
  readonly description: string;
  readonly definition: TurnTemplateDefinition;
}

export const PRESETS: ReadonlyMap<string, Preset> = new Map<string, Preset>([
  [
    'tutorial',
    {
      version: '1',
      description: '[Round 1], blank lines, 问: and 答: with half-width colons',
      definition: roundsDefinition({ indexBase: 1, colon: 'half', separator: '\n\n', bareFirstTurn: false }),
    },
  ],
  [
    'chatglm2',
    {
      version: '1',
      description: '[Round 1], blank lines, 问： and 答： with full-width colons',
      definition: roundsDefinition({ indexBase: 1, colon: 'full', separator: '\n\n', bareFirstTurn: false }),
    },
  ],
  [
    'chatglm',
    {
      version: '1',
      description: '[Round 0], single newlines, full-width colons; a first question stands alone',
      definition: roundsDefinition({ indexBase: 0, colon: 'full', separator: '\n', bareFirstTurn: true }),
    },
  ],
  [
    'instruction',
    {
      version: '1',
      description: 'BOS, Human: …, Assistant: …, EOS',
      definition: instruction('Human: ', 'Assistant: '),
    },
  ],
  [
    'instruction-output',
    {
      version: '1',
      description: 'BOS, Instruction: …, Output: …, EOS',
      definition: instruction('Instruction: ', 'Output: '),
    },
  ],
  [
    'concat',
    {
      version: '1',
      description: 'questions and answers, joined; EOS is learned but not kept in the history',
      definition: concat(false),
    },
  ],
  [
    'concat-eos',
    { version: '1', description: 'questions and answers, joined; EOS behind every answer', definition: concat(true) },
  ],
]);
