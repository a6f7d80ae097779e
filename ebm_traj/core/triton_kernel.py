"""The Triton kernel of `core.triton_chain`, which imports this module when a chain is asked for.

One program walks BLOCK chains from start to end. States, activations (BLOCK, WIDTH) and slopes are in
registers. A weight that stays on chip is loaded before the loop over steps, and the compiler puts it into
shared memory; one that does not is read in slices of SLICE through a pipeline of asynchronous copies, which
needs the activations by slices as well: they pass through a scratch that belongs to the program alone.
"""

# Triton's compiler takes tuples by concatenation, and no return after an if that it decides
# ruff: noqa: RUF005, RET505
# mypy: disable-error-code="assignment"

import triton
import triton.language as tl


@triton.jit
def _normal(seed, row, column, step):
    """Standard normal noise that depends on (seed, row, column, step) alone, not on the block size."""
    zero = (row + column) * 0
    bits, more_bits, _, _ = tl.philox(seed, zero + row, zero + column, zero + step, zero)
    noise, _ = tl.pair_uniform_to_normal(tl.uint_to_uniform_float(bits), tl.uint_to_uniform_float(more_bits))
    return noise


@triton.jit
def _uniform(seed, row, step):
    """Uniform in [0, 1) of (seed, row, step); the last word 1 keeps it apart from the noise."""
    zero = row * 0
    bits, _, _, _ = tl.philox(seed, row, zero, zero + step, zero + 1)
    return tl.uint_to_uniform_float(bits)


@triton.jit
def _matrix(
    pointer,
    first_row,
    first_column,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """(ROWS, COLUMNS) of a row-major matrix (HEIGHT, WIDTH) from an element on, 0 beyond its ends."""
    row = (first_row + tl.arange(0, ROWS))[:, None]
    column = (first_column + tl.arange(0, COLUMNS))[None, :]
    if HEIGHT % ROWS == 0 and WIDTH % COLUMNS == 0:
        return tl.load(pointer + row * WIDTH + column)
    else:
        return tl.load(pointer + row * WIDTH + column, mask=(row < HEIGHT) & (column < WIDTH), other=0.0)


@triton.jit
def _stage(scratch_ptr, a, BLOCK: tl.constexpr, WIDTH: tl.constexpr):
    """Write activations (BLOCK, WIDTH) for all threads of the program to read."""
    place = tl.arange(0, BLOCK)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    tl.debug_barrier()  # what was written before has been read
    tl.store(scratch_ptr + place, a)
    tl.debug_barrier()


@triton.jit
def _staged(scratch_ptr, k, BLOCK: tl.constexpr, WIDTH: tl.constexpr, SLICE: tl.constexpr):
    """Columns k to k + SLICE of what was staged."""
    place = tl.arange(0, BLOCK)[:, None] * WIDTH + k + tl.arange(0, SLICE)[None, :]
    return tl.load(scratch_ptr + place)


@triton.jit
def _product(
    scratch_ptr,
    a,
    out,
    weight_ptr,
    again,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    SLICE: tl.constexpr,
    STAGES: tl.constexpr,
    DOT: tl.constexpr,
):
    """out (BLOCK, COLUMNS) + a (BLOCK, ROWS) @ weight (HEIGHT, WIDTH), by slices of rows."""
    _stage(scratch_ptr, a, BLOCK, ROWS)
    for k in tl.range(0, ROWS, SLICE, num_stages=STAGES):
        part = _staged(scratch_ptr, again + k, BLOCK, ROWS, SLICE)
        weight = _matrix(weight_ptr, again + k, again, HEIGHT, WIDTH, SLICE, COLUMNS)
        out = tl.dot(part, weight, out, input_precision=DOT)
    return out


@triton.jit
def _rows(pointer, row, column, stride, column_stride, inside, other):
    """(BLOCK, columns) tile of a (batch, columns) tensor of any strides."""
    return tl.load(pointer + row * stride + column * column_stride, mask=inside, other=other)


@triton.jit
def _operand(a, HALF: tl.constexpr, EMULATED: tl.constexpr):
    """Activations as a product takes them."""
    if HALF:
        a = a.to(tl.bfloat16)
    if EMULATED:
        a = a.to(tl.float32)
    return a


@triton.jit
def _silu(h):
    """silu(h) and its derivative."""
    s = tl.sigmoid(h)
    a = h * s
    return a, s + a * (1 - s)


# a batch or a number of steps that is a multiple of 16 or 1 is no kernel of its own
@triton.jit(
    do_not_specialize=["batch", "steps", "nothing", "step_size", "noise_scale", "clip", "temperature"]
)
def chain_kernel(
    start_ptr,
    end_ptr,
    energy_ptr,
    accepted_ptr,
    first_ptr,
    x_weight_ptr,  # (N, UNITS)
    x_back_ptr,  # its transpose
    hidden_ptr,  # (LAYERS, UNITS, UNITS)
    hidden_back_ptr,  # their transposes
    bias_ptr,
    last_ptr,
    last_bias_ptr,
    centre_ptr,
    precision_ptr,
    scale_ptr,
    scratch_ptr,
    seed_ptr,
    start_stride,
    start_column_stride,
    first_stride,
    first_column_stride,
    centre_stride,
    centre_column_stride,
    precision_stride,
    precision_column_stride,
    scale_stride,
    scale_column_stride,
    batch,
    steps,
    nothing,  # 0, unknown to the compiler
    step_size,
    noise_scale,
    clip,
    temperature,
    LAYERS: tl.constexpr,  # hidden layers after the first
    KEPT: tl.constexpr,  # how many of their weights stay on chip; the others are loaded at each step
    KEEP_X: tl.constexpr,  # the same for the first layer's weight
    KEEP_FIRST: tl.constexpr,  # the same for what the condition adds to the first layer
    N: tl.constexpr,
    UNITS: tl.constexpr,  # width of the layers
    WIDTH: tl.constexpr,  # the same, padded
    COLUMNS: tl.constexpr,  # N, padded
    BLOCK: tl.constexpr,
    SLICE: tl.constexpr,
    STAGES: tl.constexpr,
    METROPOLIS: tl.constexpr,
    NOISY: tl.constexpr,
    CLIPPED: tl.constexpr,
    CENTRED: tl.constexpr,
    QUADRATIC: tl.constexpr,
    SCALED: tl.constexpr,
    DOT: tl.constexpr,  # input precision of the products
    HALF: tl.constexpr,  # bfloat16 operands
    EMULATED: tl.constexpr,  # bfloat16 values in float32, for the interpreter, which has no bfloat16 products
):
    lane = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row = lane[:, None]
    column = tl.arange(0, COLUMNS)[None, :]
    there = lane < batch
    inside = (row < batch) & (column < N)
    seed = tl.load(seed_ptr)

    start = _rows(start_ptr, row, column, start_stride, start_column_stride, inside, 0.0)
    spread = tl.full((BLOCK, COLUMNS), noise_scale, tl.float32)
    drift = tl.full((BLOCK, COLUMNS), step_size, tl.float32)
    back = tl.full((BLOCK, COLUMNS), 1.0, tl.float32)
    if METROPOLIS:
        back = drift / spread
    if SCALED:
        scale = _rows(scale_ptr, row, column, scale_stride, scale_column_stride, inside, 1.0)
        spread = spread * scale
        drift = drift * scale * scale
        back = back * scale
    if QUADRATIC:
        precision = _rows(precision_ptr, row, column, precision_stride, precision_column_stride, inside, 0.0)
    if CENTRED:
        centre = _rows(centre_ptr, row, column, centre_stride, centre_column_stride, inside, 0.0)

    unit = tl.arange(0, WIDTH)
    known = (row < batch) & (unit < UNITS)[None, :]
    last = tl.load(last_ptr + unit, mask=unit < UNITS, other=0.0)[None, :]
    last_bias = tl.load(last_bias_ptr)
    scratch_ptr += tl.program_id(0).to(tl.int64) * BLOCK * max(WIDTH, COLUMNS)

    # weights that stay on chip
    if KEEP_X:
        x_forth = _matrix(x_weight_ptr, 0, 0, N, UNITS, COLUMNS, WIDTH)
        x_back = _matrix(x_back_ptr, 0, 0, UNITS, N, WIDTH, COLUMNS)
    if KEEP_FIRST:
        first = _rows(first_ptr, row, unit[None, :], first_stride, first_column_stride, known, 0.0)
    biases = ()
    forths = ()
    backs = ()
    for layer in tl.static_range(LAYERS):
        biases = biases + (tl.load(bias_ptr + layer * UNITS + unit, mask=unit < UNITS, other=0.0)[None, :],)
        if layer < KEPT:
            place = layer * UNITS * UNITS
            forths = forths + (_matrix(hidden_ptr + place, 0, 0, UNITS, UNITS, WIDTH, WIDTH),)
            backs = backs + (_matrix(hidden_back_ptr + place, 0, 0, UNITS, UNITS, WIDTH, WIDTH),)

    x = start
    candidate = start  # where the energy is evaluated
    gradient = tl.zeros((BLOCK, COLUMNS), tl.float32)
    noise = tl.zeros((BLOCK, COLUMNS), tl.float32)
    energy = tl.zeros((BLOCK,), tl.float32)
    accepted = tl.zeros((BLOCK,), tl.float32)

    # the corrected chain first evaluates its start, as a proposal that is always accepted
    evaluations = steps
    if METROPOLIS:
        evaluations = steps + 1
    for step in range(evaluations):
        # always 0; keeps the compiler from loading before the loop what does not fit on chip
        again = step * nothing

        # forwards; the slopes of all layers are for the way back
        if KEEP_FIRST:
            h = first
        else:
            h = _rows(first_ptr, row, again + unit[None, :], first_stride, first_column_stride, known, 0.0)
        point = _operand(candidate, HALF, EMULATED)
        if KEEP_X:
            h = tl.dot(point, x_forth, h, input_precision=DOT)
        else:
            h = _product(
                *(scratch_ptr, point, h, x_weight_ptr, again),
                *(N, UNITS, BLOCK, COLUMNS, WIDTH, min(SLICE, COLUMNS), STAGES, DOT),
            )
        a, slope = _silu(h)
        slopes = (slope,)
        for layer in tl.static_range(LAYERS):
            h = tl.zeros((BLOCK, WIDTH), tl.float32) + biases[layer]
            point = _operand(a, HALF, EMULATED)
            if layer < KEPT:
                h = tl.dot(point, forths[layer], h, input_precision=DOT)
            else:
                here = hidden_ptr + layer * UNITS * UNITS
                h = _product(
                    *(scratch_ptr, point, h, here, again),
                    *(UNITS, UNITS, BLOCK, WIDTH, WIDTH, SLICE, STAGES, DOT),
                )
            a, slope = _silu(h)
            slopes = slopes + (slope,)
        if METROPOLIS:
            value = last_bias + tl.sum(a * last, axis=1)

        # backwards; g is how E changes with what a layer's SiLU gets
        g = last * slopes[LAYERS]
        for reverse in tl.static_range(LAYERS):
            point = _operand(g, HALF, EMULATED)
            if LAYERS - 1 - reverse < KEPT:
                g = tl.dot(point, backs[LAYERS - 1 - reverse], input_precision=DOT)
            else:
                here = hidden_back_ptr + (LAYERS - 1 - reverse) * UNITS * UNITS
                nil = tl.zeros((BLOCK, WIDTH), tl.float32)
                g = _product(
                    *(scratch_ptr, point, nil, here, again),
                    *(UNITS, UNITS, BLOCK, WIDTH, WIDTH, SLICE, STAGES, DOT),
                )
            g = g * slopes[LAYERS - 1 - reverse]
        point = _operand(g, HALF, EMULATED)
        if KEEP_X:
            new_gradient = tl.dot(point, x_back, input_precision=DOT)
        else:
            nil = tl.zeros((BLOCK, COLUMNS), tl.float32)
            new_gradient = _product(
                *(scratch_ptr, point, nil, x_back_ptr, again),
                *(UNITS, N, BLOCK, WIDTH, COLUMNS, SLICE, STAGES, DOT),
            )
        if QUADRATIC:
            offset = candidate
            if CENTRED:
                offset = candidate - centre
            new_gradient += precision * offset
            if METROPOLIS:
                value += 0.5 * tl.sum(precision * offset * offset, axis=1)

        if METROPOLIS:
            # with u = back (g + g'), the noise that would bring the candidate back to x is u - noise
            u = back * (gradient + new_gradient)
            log_ratio = (energy - value) / temperature + tl.sum(u * (noise - 0.5 * u), axis=1)
            accept = tl.log(_uniform(seed, lane, step)) < log_ratio
            accepted += tl.where(accept & (step > 0), 1.0, 0.0)
            accept = accept | (step == 0)
            keep = accept[:, None]
            x = tl.where(keep, candidate, x)
            gradient = tl.where(keep, new_gradient, gradient)
            energy = tl.where(accept, value, energy)
            noise = tl.where(column < N, _normal(seed, row, column, step), 0.0)
            candidate = x - drift * gradient + spread * noise
        else:
            if CLIPPED:
                new_gradient = tl.clamp(new_gradient, -clip, clip, propagate_nan=tl.PropagateNan.ALL)
            candidate = candidate - drift * new_gradient
            if NOISY:
                noise = tl.where(column < N, _normal(seed, row, column, step), 0.0)
                candidate += spread * noise

    if METROPOLIS:
        tl.store(energy_ptr + lane, energy, mask=there)
        tl.store(accepted_ptr + lane, accepted, mask=there)
    else:
        x = candidate
    tl.store(end_ptr + row * N + column, x, mask=inside)
