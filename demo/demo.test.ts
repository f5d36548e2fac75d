import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { isRight, type Question } from './judge.ts';

interface Conversation {
  readonly messages: readonly { readonly role: string; readonly content: string }[];
}

const read = (name: string): string => readFileSync(join(import.meta.dirname, name), 'utf8');
const conversations = (name: string): Conversation[] =>
  read(name)
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as Conversation);

const questions = JSON.parse(read('questions.json')) as Question[];
const trained = conversations('conversations.jsonl');
const heldOut = conversations('held-out.jsonl');
const contents = (all: readonly Conversation[], role: string): string[] =>
  all.flatMap(({ messages }) => messages.filter((message) => message.role === role).map(({ content }) => content));

const words = (text: string): string =>
  text
    .toLowerCase()
    .replaceAll(/[^a-z0-9]+/g, ' ')
    .trim();

test('conversations have several rounds of question and answer', () => {
  for (const { messages } of [...trained, ...heldOut]) {
    expect(messages.length).toBeGreaterThanOrEqual(4);
    messages.forEach(({ role, content }, index) => {
      expect(role).toBe(index % 2 === 0 ? 'user' : 'assistant');
      expect(content.trim()).toBe(content);
    });
  }
  expect(trained.length).toBeGreaterThanOrEqual(40);
});

test('no question that is asked or evaluated was trained on', () => {
  const seen = new Set(contents(trained, 'user').map(words));
  for (const { question } of questions) expect(seen).not.toContain(words(question));
  for (const question of contents(heldOut, 'user')) expect(seen).not.toContain(words(question));
  expect(questions).toHaveLength(12);
});

test('each question has exactly one right answer among those that are taught', () => {
  const answers = [...new Set(contents(trained, 'assistant'))];
  for (const question of questions) expect(answers.filter((answer) => isRight(question, answer))).toHaveLength(1);
});

test('no question gives its answer away', () => {
  for (const question of questions) expect(isRight(question, question.question)).toBe(false);
});

test('an answer is right when it holds every key word, in any letter case', () => {
  const question = { question: '?', keywords: ['grpc', 'fine-tun'] };
  expect(isRight(question, 'A gRPC service that FINE-TUNES models.')).toBe(true);
  expect(isRight(question, 'A gRPC service.')).toBe(false);
});
