// Draws one board with Grafana's own components; window.BOARD has its JSON, the frames and the range.
import 'uplot/dist/uPlot.min.css';
import { createRoot } from 'react-dom/client';
import { Dial, Heatmap, Timeline } from './svg.jsx';

// Not `import`: from an .mjs file esbuild imports CommonJS as Node does, and React gets a module for a component.
const {
  createTheme, dateTime, FieldColorModeId, FieldType, getDisplayProcessor, getDisplayValueAlignmentFactors, reduceField,
  ThemeContext, toDataFrame,
} = require('@grafana/data');
const { BarGauge, BigValue, GlobalStyles, PanelChrome, Table, TimeSeries } = require('@grafana/ui');

const { board, results, start, end } = window.BOARD;
const theme = createTheme({ colors: { mode: 'dark' } });
const WIDTH = 1600, COLUMN = (WIDTH - 8) / 24, LINE = 38;
const range = { from: start * 1000, to: end * 1000 };
const timeRange = { from: dateTime(start * 1000), to: dateTime(end * 1000), raw: { from: 'now-3m', to: 'now' } };

const named = (legend, metric) =>
  legend ? legend.replace(/{{\s*(\w+)\s*}}/g, (_, label) => metric[label] ?? '') : JSON.stringify(metric);

// Defaults, then what the overrides of the field's name say: "custom.lineWidth" is a path.
function configured(panel, name) {
  const config = structuredClone(panel.fieldConfig.defaults);
  for (const { matcher, properties } of panel.fieldConfig.overrides) {
    const hit = matcher.id === 'byName' ? matcher.options === name
      : matcher.id === 'byRegexp' && new RegExp(matcher.options.replace(/^\/|\/$/g, '')).test(name);
    for (const { id, value } of hit ? properties : []) {
      const path = id.split('.'), last = path.pop();
      path.reduce((at, key) => (at[key] ??= {}), config)[last] = value;
    }
  }
  return config;
}

// Where Prometheus has no value is a gap, not a line from the one before to the one after.
const gapped = (values, step) => values.flatMap((point, at) => {
  const before = values[at - 1];
  return before && point[0] - before[0] > 1.5 * step ? [[before[0] + step, null], point] : [point];
});

function frames(panel) {
  const found = (results[panel.id] ?? []).flatMap(({ legend, series }) => series.map(({ metric, values: known }) => {
    const name = named(legend, metric), values = gapped(known, window.BOARD.step);
    return toDataFrame({
      fields: [
        { name: 'Time', type: FieldType.time, values: values.map(([at]) => at * 1000), config: {} },
        { name, type: FieldType.number, values: values.map(([, value]) => value === null ? null : Number(value)), config: configured(panel, name) },
      ],
    });
  }));
  found.forEach((frame, index) => {
    const field = frame.fields[1];
    const known = field.values.filter(Number.isFinite);
    const range = { min: Math.min(...known), max: Math.max(...known) };
    field.state = { ...field.state, seriesIndex: index, range: { ...range, delta: range.max - range.min } };
    field.config.color ??= { mode: FieldColorModeId.PaletteClassic };
    field.display = getDisplayProcessor({ field, theme });
    frame.fields[0].display = getDisplayProcessor({ field: frame.fields[0], theme, timeZone: 'utc' });
  });
  return found;
}

const Nothing = ({ children }) => <div style={{ color: '#888', padding: 24, textAlign: 'center' }}>{children}</div>;

function several(width, height, count, draw) {
  const each = width / Math.max(count, 1);
  return <div style={{ display: 'flex' }}>{Array.from({ length: count }, (_, at) => <div key={at}>{draw(at, each, height)}</div>)}</div>;
}

const reduced = (field, { calcs: [how] } = { calcs: ['lastNotNull'] }) => {
  const value = reduceField({ field, reducers: [how] })[how];
  return { ...field.display(value), title: field.name };
};

const KINDS = {
  timeseries: (panel, found, width, height) => (
    <TimeSeries frames={found} timeRange={timeRange} timeZone="utc" width={width} height={height}
      legend={panel.options.legend} replaceVariables={(text) => text} />
  ),
  stat: (panel, found, width, height) => several(width, height, found.length, (at, w, h) => {
    const field = found[at].fields[1], value = reduced(field);
    return <BigValue theme={theme} width={w} height={h} value={found.length > 1 ? value : { ...value, title: undefined }}
      colorMode={panel.options.colorMode} graphMode={panel.options.graphMode} justifyMode={panel.options.justifyMode}
      sparkline={{ y: field, x: found[at].fields[0] }} />;
  }),
  bargauge: (panel, found, width, height) => {
    const values = found.map((frame) => reduced(frame.fields[1], panel.options.reduceOptions));
    const factors = getDisplayValueAlignmentFactors(values.map((display) => ({ display })));
    return found.map(({ fields: [, field] }, at) => (
      <BarGauge key={at} theme={theme} width={width} height={height / found.length} value={values[at]} alignmentFactors={factors}
        text={{ titleSize: 16, valueSize: 22 }} field={field.config} display={field.display} orientation="horizontal" displayMode="gradient" />
    ));
  },
  gauge: (panel, found, width, height) => several(width, height, found.length, (at, w, h) => {
    const { min, max, thresholds } = panel.fieldConfig.defaults;
    return <Dial theme={theme} value={reduced(found[at].fields[1])} bounds={{ min, max }} steps={thresholds.steps} width={w} height={h} />;
  }),
  heatmap: (panel, found, width, height) => {
    const rows = results[panel.id].flatMap(({ series }) => series).map(({ metric, values }) => ({
      bound: Number(metric.le.replace('+Inf', 'Infinity')),
      values: values.map(([at, value]) => [at * 1000, Number(value)]),
    })).sort((a, b) => a.bound - b.bound);
    const shown = getDisplayProcessor({ field: { config: panel.fieldConfig.defaults, type: FieldType.number }, theme });
    const show = (bound) => { const { text, suffix } = shown(bound); return Number.isFinite(bound) ? text + (suffix ?? '') : '+Inf'; };
    return <Heatmap theme={theme} rows={rows} range={range} width={width} height={height} show={show} />;
  },
  'state-timeline': (panel, found, width, height) => {
    const { options } = panel.fieldConfig.defaults.mappings[0];
    const rows = found.map(({ fields: [time, field] }) => ({ name: field.name, values: field.values.map((value, at) => [time.values[at], value]) }));
    return <Timeline theme={theme} rows={rows} range={range} step={1000 * window.BOARD.step} width={width} height={height}
      look={(value) => options[value] ?? {}} />;
  },
  table: (panel, found, width, height) => <Table data={rows(panel)} width={width} height={height} />,
};

// Grafana core merges the answers of a table; here a row is a set of labels, a column a query.
function rows(panel) {
  const answers = results[panel.id] ?? [], all = [];
  const organize = panel.transformations.find(({ id }) => id === 'organize')?.options ?? {};
  for (const { ref, series } of answers) {
    for (const { metric, values } of series) {
      const same = (row) => Object.entries(metric).every(([label, value]) => !(label in row) || row[label] === value);
      const row = all.find(same) ?? {};
      if (!all.includes(row)) all.push(row);
      Object.assign(row, metric, { [answers.length > 1 ? `Value #${ref}` : 'Value']: Number(values.at(-1)[1]) });
    }
  }
  const names = [...new Set(all.flatMap(Object.keys))].filter((name) => !organize.excludeByName?.[name]);
  names.sort((a, b) => (organize.indexByName?.[a] ?? 99) - (organize.indexByName?.[b] ?? 99));
  const columns = names.map((name) => [organize.renameByName?.[name] || name, name]);
  const by = panel.options.sortBy?.[0];
  const source = columns.find(([shown]) => shown === by?.displayName)?.[1];
  if (source) all.sort((a, b) => (by.desc ? -1 : 1) * ((a[source] ?? 0) - (b[source] ?? 0)));
  const frame = toDataFrame({
    fields: columns.map(([shown, name]) => ({
      name: shown,
      type: name.startsWith('Value') ? FieldType.number : FieldType.string,
      values: all.map((row) => row[name] ?? null),
      config: configured(panel, shown),
    })),
  });
  frame.fields.forEach((field) => { field.display = getDisplayProcessor({ field, theme }); });
  return frame;
}

// A headline may name variables, of which everything is chosen.
const everything = (text) => text.replace(/\$(\w+)/g, (_, name) => `${board.templating.list.find((each) => each.name === name).label}: All`);

function Panel({ panel }) {
  const { x, y, w, h } = panel.gridPos;
  const place = { position: 'absolute', left: 8 + x * COLUMN, top: y * LINE + 8, width: w * COLUMN - 8, height: h * LINE - 8 };
  if (panel.type === 'row') return <h4 style={{ ...place, paddingTop: 6 }}>{everything(panel.title)}</h4>;
  const found = frames(panel), draw = KINDS[panel.type];
  return (
    <div style={place}>
      <PanelChrome title={panel.title} width={place.width} height={place.height} padding="md">
        {(width, height) => {
          if (!found.length) return <Nothing>{panel.fieldConfig.defaults.noValue ?? 'No data'}</Nothing>;
          return draw(panel, found, width, height);
        }}
      </PanelChrome>
    </div>
  );
}

createRoot(document.getElementById('root')).render(
  <ThemeContext.Provider value={theme}>
    <GlobalStyles />
    <div style={{ position: 'relative', width: WIDTH, background: theme.colors.background.canvas }}>
      {board.panels.map((panel) => <Panel key={panel.id} panel={panel} />)}
    </div>
  </ThemeContext.Provider>,
);
