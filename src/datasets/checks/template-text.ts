/** Text that chat templates write, found inside messages: data that was rendered before it was stored is rendered twice. */

/** Signs of the common templates; plain words only at the start of a line, where templates write them. */
const SIGNS =
  /<\|(?:im_start|im_end|endoftext|eot_id|begin_of_text|end_of_text|start_header_id|end_header_id|user|assistant|system|end|observation)\|>|<\/?s>|\[\/?INST\]|<<\/?SYS>>|<(?:start|end)_of_turn>|<reserved_10[67]>|<｜(?:User|Assistant|end▁of▁sentence)｜>|\[Round \d+\]|\[gMASK\]|^### ?(?:Instruction|Response|Input|Human|Assistant):|^(?:Human|Assistant|USER|ASSISTANT): /m;

/** The first sign of a template in a text; null: none. */
export function templateText(text: string): string | null {
  return SIGNS.exec(text)?.[0] ?? null;
}
