import { describe, expect, it } from 'vitest';
import { DuplicateFinder } from './checks/duplicates.ts';
import { readExample } from './formats.ts';

const user = { role: 'user', content: 'weather?' };
const callOf = (target: object): object => ({ id: 'c1', type: 'function', function: target });
const assistant = (calls: unknown, content: unknown = null): object => ({
  role: 'assistant',
  content,
  tool_calls: calls,
});
const tool = { type: 'function', function: { name: 'weather', parameters: { type: 'object' } } };
const read = (messages: readonly unknown[], tools?: unknown) =>
  readExample('messages', tools === undefined ? { messages } : { messages, tools });

describe('calls and tools', () => {
  const object = read([user, assistant([callOf({ name: 'weather', arguments: { city: '北京', n: 1 } })])], [tool]);

  it('are read with the fields of their messages', () => {
    const result = { role: 'tool', content: 'rain', tool_call_id: 'c1', name: 'weather' };
    const thought = { role: 'assistant', content: 'It rains.', reasoning_content: 'So.' };
    expect(read([user, result, thought])).toEqual({
      kind: 'messages',
      messages: [
        user,
        { role: 'tool', content: 'rain', toolCallId: 'c1', name: 'weather' },
        { role: 'assistant', content: 'It rains.', reasoningContent: 'So.' },
      ],
    });
    expect(object).toEqual({
      kind: 'messages',
      messages: [
        user,
        {
          role: 'assistant',
          content: '',
          toolCalls: [{ id: 'c1', name: 'weather', arguments: { city: '北京', n: 1 } }],
        },
      ],
      tools: [tool],
    });
  });

  it('may be JSON text, as OpenAI has arguments and tables have tools', () => {
    const call = callOf({ name: 'weather', arguments: '{"city": "北京", "n": 1}' });
    expect(read([user, assistant([call])], JSON.stringify([tool]))).toEqual(object);
  });

  it('are none where they are null or empty', () => {
    const message = { role: 'assistant', content: 'a', tool_calls: [], reasoning_content: null, name: null };
    expect(read([user, message], [])).toEqual(read([user, { role: 'assistant', content: 'a' }]));
    expect(read([user, { ...message, tool_calls: null }], null)).toEqual(
      read([user, { role: 'assistant', content: 'a' }]),
    );
  });

  it('tell two examples from each other', () => {
    const finder = new DuplicateFinder();
    const contents = [undefined, [tool], [tool]].map((tools) =>
      read([user, { role: 'assistant', content: 'a' }], tools),
    );
    const lines = contents.map((content, index) =>
      'kind' in content ? finder.firstLine(content, index + 1) : 'problem',
    );
    expect(lines).toEqual([null, null, 2]);
  });

  let deep: object = {};
  for (let level = 0; level < 40; level++) deep = { deep };
  it.each([
    ['messages[1].content', [user, assistant([])]],
    ['messages[1].tool_calls', [user, assistant({}, 'a')]],
    ['messages[0].tool_calls', [{ ...user, tool_calls: [callOf({ name: 'f', arguments: {} })] }]],
    ['messages[0].reasoning_content', [{ ...user, reasoning_content: 'x' }]],
    ['messages[0].tool_call_id', [{ ...user, tool_call_id: 'x' }]],
    ['messages[1].tool_calls[0]', [user, assistant([{ name: 'f', arguments: {} }])]],
    ['messages[1].tool_calls[0]', [user, assistant([{ type: 'custom', function: { name: 'f', arguments: {} } }])]],
    ['messages[1].tool_calls[0].function.name', [user, assistant([callOf({ arguments: {} })])]],
    ['messages[1].tool_calls[0].function.arguments', [user, assistant([callOf({ name: 'f', arguments: '{"a": 1' })])]],
    ['messages[1].tool_calls[0].function.arguments', [user, assistant([callOf({ name: 'f', arguments: [1] })])]],
    [
      'messages[1].tool_calls[0].function.arguments',
      [user, assistant([callOf({ name: 'f', arguments: { a: '\ud800' } })])],
    ],
    ['messages[1].tool_calls[0].function.arguments', [user, assistant([callOf({ name: 'f', arguments: deep })])]],
    ['messages[1].tool_calls[0].index', [user, assistant([{ ...callOf({ name: 'f', arguments: {} }), index: 0 }])]],
    ['tools[0]', [user], [{ name: 'f' }]],
    ['tools', [user], 'no JSON'],
  ] as [string, unknown[], unknown?][])('are refused: %s', (field, messages, tools) => {
    const found = read(messages, tools);
    expect(found).toEqual([expect.objectContaining({ field })]);
  });
});
