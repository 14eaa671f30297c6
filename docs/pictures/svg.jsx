// The kinds of panels that live in Grafana's server, not in @grafana/ui: drawn here as Grafana draws them.
const AXIS = 20, LETTER = 7.4;

// About five round moments of the range, in milliseconds.
function moments({ from, to }, width) {
  const span = to - from, steps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600].map((each) => each * 1000);
  const step = steps.find((each) => span / each <= Math.max(2, width / 90)) ?? span / 4;
  const found = [];
  for (let at = Math.ceil(from / step) * step; at <= to; at += step) found.push(at);
  return found;
}

const clock = (at) => new Date(at).toISOString().slice(11, 19);

function TimeAxis({ theme, range, left, width, height }) {
  const x = (at) => left + ((at - range.from) / (range.to - range.from)) * (width - left);
  return moments(range, width - left).map((at) => (
    <g key={at}>
      <line x1={x(at)} x2={x(at)} y1={0} y2={height - AXIS} stroke={theme.colors.border.weak} />
      <text x={Math.min(Math.max(x(at), left + 26), width - 26)} y={height - 4} textAnchor="middle">{clock(at)}</text>
    </g>
  ));
}

const Canvas = ({ theme, width, height, children }) => (
  <svg width={width} height={height} fontSize={12} fontFamily={theme.typography.fontFamily} fill={theme.colors.text.primary}>
    {children}
  </svg>
);

/* Buckets are cumulative; a cell is what its bucket has more than the one below. `rows` rise by their bound. */
export function Heatmap({ theme, rows, range, width, height, show }) {
  const times = [...new Set(rows.flatMap(({ values }) => values.map(([at]) => at)))].sort((a, b) => a - b);
  const known = rows.map(({ values }) => new Map(values));
  const cells = rows.flatMap((_, row) => times.map((at, column) => {
    const more = (known[row].get(at) ?? 0) - (row ? known[row - 1].get(at) ?? 0 : 0);
    return { row, column, value: Math.max(0, more) };
  })).filter(({ value }) => value > 1e-9);
  const most = Math.max(...cells.map(({ value }) => value));
  const left = Math.max(...rows.map(({ bound }) => show(bound).length)) * LETTER + 8;
  const wide = (width - left) / times.length, tall = (height - AXIS) / rows.length;
  const every = Math.ceil(16 / tall);
  const color = theme.visualization.getColorByName('orange');
  return (
    <Canvas theme={theme} width={width} height={height}>
      <TimeAxis theme={theme} range={range} left={left} width={width} height={height} />
      {cells.map(({ row, column, value }) => (
        <rect key={`${row} ${column}`} x={left + column * wide} y={height - AXIS - (row + 1) * tall}
          width={wide > 4 ? wide - 1 : wide + 0.2} height={Math.max(1, tall - 1)} fill={color} opacity={0.12 + 0.88 * Math.sqrt(value / most)} />
      ))}
      {rows.map(({ bound }, row) => row % every === 0 && (
        <text key={bound} x={left - 6} y={height - AXIS - row * tall - tall / 2 + 4} textAnchor="end">{show(bound)}</text>
      ))}
    </Canvas>
  );
}

/* Neighbours of one value are one piece; a value without a word has no piece. */
export function Timeline({ theme, rows, range, step, width, height, look }) {
  const longest = Math.max(...rows.map(({ name }) => name.length));
  const left = Math.min(longest * LETTER + 8, width * 0.45), fits = Math.floor((left - 8) / LETTER);
  const tall = (height - AXIS) / rows.length;
  const x = (at) => left + ((Math.min(Math.max(at, range.from), range.to) - range.from) / (range.to - range.from)) * (width - left);
  return (
    <Canvas theme={theme} width={width} height={height}>
      <TimeAxis theme={theme} range={range} left={left} width={width} height={height} />
      {rows.map(({ name, values }, row) => (
        <g key={name}>
          <text x={left - 8} y={row * tall + tall / 2 + 4} textAnchor="end">
            {name.length > fits ? `${name.slice(0, fits - 1)}…` : name}
          </text>
          {pieces(values, step).map(({ from, to, value }) => {
            const { text, color } = look(value);
            return text && <rect key={from} x={x(from)} width={Math.max(1, x(to) - x(from))} y={row * tall + tall * 0.05}
              height={tall * 0.9} fill={theme.visualization.getColorByName(color)} opacity={0.7} />;
          })}
        </g>
      ))}
    </Canvas>
  );
}

function pieces(values, step) {
  const found = [];
  for (const [at, value] of values) {
    const last = found.at(-1);
    if (last && last.value === value && at - last.to < step) last.to = at + step;
    else found.push({ from: at, to: at + step, value });
  }
  return found;
}

/* Three quarters of a circle, filled up to the value, with the thresholds as a thin line around it. */
export function Dial({ theme, value, bounds, steps, width, height }) {
  const label = 22, radius = Math.min(width / 2 - 24, (height - label - 20) / 1.75), cx = width / 2, cy = radius + 18;
  const angle = (number) => {
    const share = Math.min(1, Math.max(0, (number - bounds.min) / (bounds.max - bounds.min)));
    return Math.PI * (0.75 + 1.5 * share);
  };
  const arc = (from, to, r) => {
    const at = (a) => `${cx + r * Math.cos(a)} ${cy + r * Math.sin(a)}`;
    return `M ${at(from)} A ${r} ${r} 0 ${to - from > Math.PI ? 1 : 0} 1 ${at(to)}`;
  };
  const ends = [...steps.slice(1).map((each) => each.value), bounds.max];
  return (
    <Canvas theme={theme} width={width} height={height}>
      <g fill="none">
        <path d={arc(angle(bounds.min), angle(bounds.max), radius)} stroke={theme.colors.background.secondary} strokeWidth={18} />
        {value.numeric > bounds.min && <path d={arc(angle(bounds.min), angle(value.numeric), radius)} stroke={value.color} strokeWidth={18} />}
        {steps.map(({ color, value: from }, index) => {
          const [low, high] = [angle(from ?? bounds.min), angle(ends[index])];
          return high > low && <path key={index} d={arc(low, high, radius + 13)} stroke={theme.visualization.getColorByName(color)} strokeWidth={4} />;
        })}
      </g>
      <text x={cx} y={cy + 8} textAnchor="middle" fontSize={radius / 3} style={{ fill: value.color }}>{value.text}{value.suffix}</text>
      <text x={cx} y={height - 6} textAnchor="middle" fontSize={14}>{value.title}</text>
    </Canvas>
  );
}
