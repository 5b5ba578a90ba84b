/**
 * Texts that models read to be compared position by position: of the kinds that a language model meets, each longer
 * than one prefill chunk, so that later positions look back through the KV cache.
 */
import type { ChatMessage } from "../../src/tokenizer/chat_template.ts";

/** A text as it is, or a conversation for the model's template. */
export type Passage = { name: string; text: string } | { name: string; messages: readonly ChatMessage[] };

const prose = `The lighthouse had not been lit for eleven years when Marta came back to the island. She had been a
child when the last keeper left, and what she remembered of him was his coat, which smelled of oil and salt, and the
way he counted the steps aloud whenever he climbed them. There were two hundred and six. She counted them now, slowly,
with one hand on the cold wall, and when she reached the top she found that she had lost one somewhere on the way.

The lamp itself was gone, sold or stolen, but the glass that had stood around it was still there. Someone had cleaned
it. That was the first strange thing. The second was a chair, an ordinary kitchen chair with a blue cushion, turned
toward the north window, and beside it on the floor a cup with a little tea in the bottom. The tea was cold, but it was
not old. She stood for a while and listened. Wind, gulls, the slow knock of a boat against the pier. Then, far below
her, a door closed, and a man's voice began to count.`;

const explanation = `A heat pump does not make heat; it moves it. Even cold air holds energy, and a liquid that boils at
a very low temperature can take that energy up. In the outdoor unit the liquid evaporates, and the gas is drawn into a
compressor. Compressing a gas makes it hotter, in the same way that a bicycle pump grows warm when you fill a tyre. The
hot gas then flows through a heat exchanger inside the house, gives its warmth to the water of the radiators, and turns
back into a liquid. Finally it passes a narrow valve, expands, cools down, and the cycle starts again.

How much is gained depends on the difference between the two temperatures. On a mild day, one kilowatt-hour of
electricity may deliver four or five kilowatt-hours of heat. When it freezes outside and the radiators need water at 60
degrees, the factor can fall to two. This is why engineers recommend large radiators or floor heating: they work with
water that is barely warmer than a hand, and the pump has less of a hill to climb.`;

const typescript = `/** A queue that holds at most \`capacity\` items; the oldest one makes room for a new one. */
export class RingBuffer<T> {
  private readonly items: (T | undefined)[];
  private start = 0;
  private count = 0;

  constructor(private readonly capacity: number) {
    if (!Number.isInteger(capacity) || capacity < 1) {
      throw new RangeError(\`capacity must be a positive integer, got \${capacity}\`);
    }
    this.items = new Array<T | undefined>(capacity);
  }

  get length(): number {
    return this.count;
  }

  push(item: T): T | undefined {
    const end = (this.start + this.count) % this.capacity;
    const dropped = this.count === this.capacity ? this.items[this.start] : undefined;
    this.items[end] = item;
    if (this.count === this.capacity) {
      this.start = (this.start + 1) % this.capacity;
    } else {
      this.count++;
    }
    return dropped;
  }

  *[Symbol.iterator](): Iterator<T> {
    for (let i = 0; i < this.count; i++) {
      yield this.items[(this.start + i) % this.capacity] as T;
    }
  }
}
`;

const python = `import csv
from collections import defaultdict
from datetime import date


def monthly_totals(path, year):
    """Sum the amounts of a ledger by month.

    Lines that are empty or start with '#' are skipped.
    """
    totals = defaultdict(float)
    with open(path, newline="", encoding="utf-8") as file:
        rows = csv.DictReader(line for line in file if line.strip() and not line.startswith("#"))
        for row in rows:
            day = date.fromisoformat(row["date"])
            if day.year != year:
                continue
            totals[day.month] += float(row["amount"])
    return {month: round(totals[month], 2) for month in range(1, 13)}


if __name__ == "__main__":
    for month, total in monthly_totals("ledger.csv", 2023).items():
        print(f"{month:02d}  {total:>10.2f}")
`;

const list = `Packing list for three days in the mountains

1. Clothes
   - two shirts that dry fast, one warm sweater
   - rain jacket and rain trousers
   - three pairs of wool socks
   - a hat for the sun and a hat for the cold
2. Kitchen
   - stove, gas, lighter (and a second lighter)
   - pot with lid, spoon, cup
   - oats, rice, lentils, nuts, chocolate, tea
3. Sleeping
   - tent, pegs, a few metres of cord
   - sleeping bag, mat, headlamp with fresh batteries
4. Safety
   - map, compass, whistle
   - first-aid kit: plasters, bandage, tweezers, painkillers
   - phone, fully charged and switched off

Before leaving: tell somebody the route, check the weather, water the plants, and close the windows.

Remember:
* Never drink from a lake without boiling the water.
* Turn around at 2 p.m., wherever you are.
* What you carry in, you carry out.
`;

const table = `Harvest of the four orchards, in kilograms

| Orchard | 2019 | 2020 | 2021 | 2022 | Mean    |
|---------|-----:|-----:|-----:|-----:|--------:|
| North   | 1240 | 1315 |  980 | 1402 | 1234.25 |
| East    |  865 |  790 |  910 |  875 |  860.00 |
| South   | 2030 | 2150 | 1995 | 2210 | 2096.25 |
| West    |  410 |  385 |  402 |  399 |  399.00 |
| Total   | 4545 | 4640 | 4287 | 4886 | 4589.50 |

The total of 2022 is 4886 - 4287 = 599 kg above that of 2021, an increase of 14.0 %. At a price of 1.85 euros per
kilogram this comes to 599 x 1.85 = 1108.15 euros.

date,open,high,low,close
2024-03-04,101.20,103.75,100.90,103.10
2024-03-05,103.10,104.00,101.55,101.80
2024-03-06,101.80,102.65,101.10,102.40
`;

const languages = `Le marché ouvre à sept heures, mais les habitués arrivent plus tôt. Ils savent que les meilleures
tomates partent avant que le soleil ne touche la place, et que la dame aux fromages garde un morceau de chèvre pour ceux
qui lui demandent des nouvelles de son fils. On parle du temps, des élections, du prix de l'huile. À midi tout est
fini : on plie les tables, on lave les pavés, et les pigeons font le reste.

Der Zug nach Freiburg hatte vierzig Minuten Verspätung, und niemand wusste warum. Eine Frau mit einem großen Hund
erzählte jedem, der es hören wollte, dass früher alles besser gewesen sei, sogar das Wetter.

El abuelo plantó el limonero el día en que nació mi madre. Nunca dio muchos limones, pero siempre hubo uno para el té.

今日は雨が降っています。駅まで歩いて、友だちと昼ご飯を食べました。
`;

const chat: ChatMessage[] = [
  { role: "system", content: "You are a patient cooking teacher. Answer in a few short sentences." },
  { role: "user", content: "My bread is always flat and heavy. What am I doing wrong?" },
  {
    role: "assistant",
    content: "Most often the dough has not risen long enough, or the yeast was old. Let it rise until it has doubled " +
      "in size, which can take two hours in a cool kitchen. Press it gently with a finger: if the dent comes back " +
      "slowly, the dough is ready.",
  },
  { role: "user", content: "How do I know whether the yeast is still good?" },
  {
    role: "assistant",
    content:
      "Stir a teaspoon of it into half a cup of warm water with a little sugar, and wait ten minutes. If there " +
      "is foam on top, the yeast is alive. If nothing happens, throw it away and buy a fresh packet.",
  },
  { role: "user", content: "Thank you! And how hot should the oven be?" },
  {
    role: "assistant",
    content: "Start hot, at about 240 °C, so that the loaf springs up. After fifteen minutes turn it down to 200 °C " +
      "and bake for another half an hour. The bread is done when it sounds hollow as you knock on the bottom.",
  },
];

export const passages: readonly Passage[] = [
  { name: "prose", text: prose },
  { name: "explanation", text: explanation },
  { name: "TypeScript", text: typescript },
  { name: "Python", text: python },
  { name: "list", text: list },
  { name: "table", text: table },
  { name: "languages", text: languages },
  { name: "chat", messages: chat },
];
