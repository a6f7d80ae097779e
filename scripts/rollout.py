"""Let a trained model drive an environment, and look at the futures it sampled on the way."""

import dataclasses
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import tyro
from tqdm import tqdm

from ebm_traj.cli import json_object, pick_device, run
from ebm_traj.core.backends import SamplerBackend, set_backend
from ebm_traj.envs.gl import choose_backend
from ebm_traj.errors import InputError
from ebm_traj.output import require_file
from ebm_traj.planning.rollout import check_fit, open_env, rollout, with_surprise
from ebm_traj.planning.rollout_data import Rollout
from ebm_traj.planning.sampling import Method
from ebm_traj.trajectory.files import load

ENDINGS = {
    "out": (".h5", ".hdf5"),
    "plot": (".png", ".pdf", ".svg"),
    "video": (".mp4", ".gif", ".webm"),
    "rerun": (".rrd",),
}


@dataclasses.dataclass
class Args:
    """Let a trained model drive an environment."""

    run: Annotated[Path, tyro.conf.arg(aliases=["--model"])]
    """Folder, or shipped name, of a trained model."""
    env: str | None = None
    """Gymnasium id; by default the environment the model was trained on."""
    env_kwargs: str | None = None
    """Keyword arguments of the environment as JSON, such as '{"target_rotation": "z"}'; by default, and
    without --env, those of the data the model was trained on."""
    steps: int = 100
    """Longest episode. Ctrl-C ends it; the files asked for hold the steps so far."""
    futures: int = 64
    """Futures sampled at each replanning."""
    horizon: int = 16
    """Steps of a future."""
    replan_every: int = 2
    """Steps acted before the next replanning."""
    replan_beyond: float | None = None
    """Also replan when what is observed is so many standard deviations from what was planned."""
    method: Method = "resampling"
    """How candidates are found, see `planning.sampling.PlannerConfig`."""
    deadline_ms: float | None = None
    """Milliseconds for a planning; the best plan so far is then taken."""
    seed: int = 0
    """Seed of the environment and of the sampling."""
    out: Path | None = None
    """Write the rollout to this HDF5 file (.h5)."""
    plot: Path | None = None
    """Draw it to this file (.png, .pdf, .svg)."""
    video: Path | None = None
    """Write a video to this file (.mp4, .gif, .webm)."""
    rerun: Path | None = None
    """Write a Rerun recording to this file (.rrd); needs the extra "rerun"."""
    sampler_backend: SamplerBackend = "auto"
    """How chains are computed, see `core.backends`; auto: the fastest here, autograd: the reference."""
    overwrite: bool = False
    """Replace files that exist."""
    device: str = "cpu"
    """Where to sample; a control step is too small for a GPU to pay off unless there are many futures."""


def main(args: Args) -> None:
    """Let a trained model drive an environment."""
    set_backend(args.sampler_backend)
    for name, endings in ENDINGS.items():
        if (path := getattr(args, name)) is not None:
            require_file(path, f"--{name}", overwrite=args.overwrite, endings=endings)
    if args.rerun is not None and importlib.util.find_spec("rerun") is None:
        raise InputError('--rerun: needs the package rerun: pip install "ebm_traj[rerun]"')
    model = load(args.run, pick_device(args.device))
    env_id = args.env or model.card.get("env_id")
    if env_id is None:
        raise InputError(f"{args.run}: does not say which environment it was trained on; give --env")
    # hand environments are drawn from states afterwards, with the plans as ghosts
    record = args.video is not None and not env_id.startswith("ebm_traj/")
    kwargs = dict(model.card.get("env_kwargs", {})) if args.env is None else {}
    if args.env_kwargs is not None:
        kwargs = json_object("--env-kwargs", args.env_kwargs)
    if record:
        choose_backend()
        kwargs["render_mode"] = "rgb_array"
    env = open_env(env_id, **kwargs)
    check_fit(env, model)
    if record:
        require_pictures(env, env_id, args.seed)
    so_far: Callable[[], Rollout] | None = None
    interrupted = False
    with tqdm(total=args.steps, unit="step", mininterval=0.5) as bar:

        def note(t: int, result: Callable[[], Rollout]) -> None:
            nonlocal so_far
            so_far = result
            bar.update()

        try:
            result = rollout(
                env,
                model,
                args.steps,
                futures=args.futures,
                horizon=args.horizon,
                replan_every=args.replan_every,
                replan_beyond=args.replan_beyond,
                method=args.method,
                deadline_ms=args.deadline_ms,
                seed=args.seed,
                callback=note,
                record_frames=record,
            )
        except KeyboardInterrupt:
            if so_far is None:
                raise
            result, interrupted = with_surprise(so_far(), model), True
    env.close()
    print(result.summary())
    if args.out is not None:
        result.save(args.out, overwrite=args.overwrite)
    if args.plot is not None:
        result.plot(args.plot)
    if args.video is not None:
        result.video(args.video)
    if args.rerun is not None:
        result.rerun(args.rerun)
    for path in (args.out, args.plot, args.video, args.rerun):
        if path is not None:
            print(path)
    if interrupted:  # the steps so far are kept
        raise KeyboardInterrupt


def require_pictures(env: Any, env_id: str, seed: int) -> None:
    """InputError if the environment cannot be drawn; many need a package of their own for it."""
    import gymnasium

    try:
        env.reset(seed=seed)
        env.render()
    except (gymnasium.error.Error, ImportError) as error:
        raise InputError(f"--video: '{env_id}' cannot be drawn: {str(error).splitlines()[0]}") from error


if __name__ == "__main__":
    run(main, Args)
