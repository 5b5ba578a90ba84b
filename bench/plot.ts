import * as vega from "vega";
import { compile, type TopLevelSpec } from "vega-lite";

/** A line for each series over a common axis, or bars when `x` is a name. */
export interface Plot {
  title: string;
  /** Axis titles, with units. */
  x: string;
  y: string;
  points: { x: number | string; y: number; series: string }[];
}

/** Draws a plot as SVG, legible on any background. */
export async function renderSvg({ title, x, y, points }: Plot): Promise<string> {
  const bars = points.some((point) => typeof point.x === "string");
  const spec: TopLevelSpec = {
    $schema: "https://vega.github.io/schema/vega-lite/v6.json",
    background: "white",
    title: { text: title, anchor: "start" },
    width: 560,
    height: 300,
    data: { values: points },
    mark: bars ? { type: "bar" } : { type: "line", point: points.length < 60 },
    encoding: {
      x: { field: "x", type: bars ? "nominal" : "quantitative", title: x, axis: { labelAngle: 0 } },
      y: { field: "y", type: "quantitative", title: y },
      color: { field: "series", type: "nominal", title: null },
      ...(bars && { xOffset: { field: "series" } }),
    },
    config: { font: "sans-serif", legend: { labelLimit: 300 }, view: { stroke: null } },
  };
  const view = new vega.View(vega.parse(compile(spec).spec), { renderer: "none" });
  try {
    return await view.toSVG();
  } finally {
    view.finalize();
  }
}
