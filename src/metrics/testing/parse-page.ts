/** A strict reader of Prometheus' text format, for tests. */

/** A family as a page has it; samples by `name{label="value"}`. */
export interface ReadFamily {
  readonly type: string;
  readonly help: string;
  readonly samples: Map<string, number>;
}

const SAMPLE = /^([a-z_][a-z0-9_]*)(\{(?:[a-z_]+="(?:[^"\\]|\\["\\n])*",?)*\})? (NaN|[+-]Inf|-?[\d.]+(?:e[+-]?\d+)?)$/;

const numberOf = (text: string): number => Number(text.replace('Inf', 'Infinity'));

/** @throws Error where a line is none of the format's, or stands in another family's place */
export function parsePage(page: string): Map<string, ReadFamily> {
  if (!page.endsWith('\n')) throw new Error('the last line is not ended');
  const families = new Map<string, ReadFamily>();
  let current = '';
  let help = '';
  for (const line of page.slice(0, -1).split('\n')) {
    const [, kind, name = '', text = ''] = /^# (HELP|TYPE) (\w+) (.+)$/.exec(line) ?? [];
    if (kind === 'HELP') {
      if (families.has(name)) throw new Error(`${name} is there twice`);
      [current, help] = [name, text];
    } else if (kind === 'TYPE') {
      if (name !== current) throw new Error(`the type of ${name} stands behind the help of ${current}`);
      families.set(name, { type: text, help, samples: new Map() });
    } else {
      const [, sample = '', labels = '', value = ''] = SAMPLE.exec(line) ?? [];
      const family = families.get(current);
      if (!family) throw new Error(`a sample without a family: ${line}`);
      const suffixes = family.type === 'histogram' ? ['_bucket', '_sum', '_count'] : [''];
      if (!suffixes.some((suffix) => sample === `${current}${suffix}`)) throw new Error(`in ${current}: ${line}`);
      const key = `${sample}${labels}`;
      if (family.samples.has(key)) throw new Error(`${key} is there twice`);
      family.samples.set(key, numberOf(value));
    }
  }
  return families;
}
