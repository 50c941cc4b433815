"""The first state of a run: parameters by seed and the optimizer's state, made on the mesh by one executable."""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from itertools import groupby
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.core import meta
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal, jaxpr_as_fun
from jax.sharding import Mesh

from mixlm.optim.optimizer import Optimizer
from mixlm.optim.per_layer import state_shardings
from mixlm.parallel.logical_axes import Layout
from mixlm.parallel.mesh import boxed_parameters, parameter_shardings, replicated
from mixlm.rng import init_key
from mixlm.training import traced_hparams
from mixlm.training.programs import program
from mixlm.training.step import TrainState


def initial_state(
    modules: Mapping[str, nn.Module], optimizer: Optimizer, seed: int, mesh: Mesh | Layout
) -> tuple[partial[TrainState], Any]:
    """Returns (a function that makes the first state on the mesh, the state's shapes with their shardings).

    Every module says with `inputs()` the smallest arguments that its `__call__` takes. The seed, and the numbers of the
    update rule that may vary, are arguments of the executable.
    """
    rule, _ = traced_hparams.hoist(optimizer.rule)
    key = ("initial state", tuple(sorted(modules.items())), rule, mesh)
    made = program(key, lambda: _InitialState(modules, optimizer, mesh))
    return partial(made.create, np.int32(seed), rule_numbers(optimizer)), made.shapes


def rule_numbers(optimizer: Optimizer) -> tuple[np.float32, ...]:
    """The numbers of the update rule that may vary, as the executable of the first state takes them."""
    return tuple(map(np.float32, traced_hparams.hoist(optimizer.rule)[1]))


class _InitialState:
    """The executable that makes a first state, and the state's shapes with their shardings."""

    def __init__(self, modules: Mapping[str, nn.Module], optimizer: Optimizer, mesh: Mesh | Layout) -> None:
        rule, _ = traced_hparams.hoist(optimizer.rule)

        @batched_draws
        def parameters(seed: Any) -> Any:
            boxed = {
                name: module.init(init_key(seed, index), *module.inputs())["params"]
                for index, (name, module) in enumerate(sorted(modules.items()))
            }
            return meta.unbox(boxed)

        def create(seed: Any, numbers: Any) -> TrainState:
            params, numbered = parameters(seed), traced_hparams.bind(optimizer_without, numbers)
            return TrainState(jnp.zeros((), jnp.int32), params, numbered.init(params))

        optimizer_without = _with_rule(optimizer, rule)
        abstract, whole = jax.eval_shape(create, 0, rule_numbers(optimizer)), replicated(mesh)
        params = {name: parameter_shardings(mesh, boxed_parameters(module)[0]) for name, module in modules.items()}
        states = {
            name: state_shardings(
                optimizer.rule.transform(), abstract.opt_state[name], abstract.params[name], params[name], whole
            )
            for name in modules
        }
        shardings: Any = abstract.replace(step=whole, params=params, opt_state=states)
        self.shapes = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings)
        self.create = jax.jit(create, out_shardings=shardings)

    def close(self) -> None:
        """It has no thread to end."""


def _with_rule(optimizer: Optimizer, rule: Any) -> Optimizer:
    """The optimizer with a rule whose numbers were hoisted out, which is not checked again."""
    twin = copy.copy(optimizer)
    object.__setattr__(twin, "rule", rule)
    return twin


def batched_draws(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with like random draws as one draw by many keys: the same numbers, and less to compile.

    XLA compiles the rounds of threefry once for every parameter of every layer: for 24 layers that took 40 s on a CPU,
    and over 60 s on an H100. Batched, it compiles a draw of each shape once. The function is traced, and its equations
    are evaluated as their inputs are known; draws, and folds of keys, wait until nothing else is left to do.
    """

    def batched(*args: Any) -> Any:
        traced, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        values = dict(zip(traced.jaxpr.constvars, traced.consts))
        values |= zip(traced.jaxpr.invars, jax.tree.leaves(args))
        left = list(traced.jaxpr.eqns)
        while left:
            later, draws = [], []
            for equation in left:
                if not all(isinstance(atom, Literal) or atom in values for atom in equation.invars):
                    later.append(equation)
                elif _is_draw(equation):
                    draws.append(equation)
                else:
                    values |= zip(equation.outvars, _alone(traced, equation)(*_inputs(equation, values)))
            for _, alike in groupby(sorted(draws, key=_kind), key=_kind):
                values |= _drawn(traced, list(alike), values)
            left = later
        leaves = [_value(atom, values) for atom in traced.jaxpr.outvars]
        return jax.tree.unflatten(jax.tree.structure(shapes), leaves)

    return batched


def _is_draw(equation: JaxprEqn) -> bool:
    """True for what takes a random key, and gives a key or an array of random numbers."""
    avals: list[Any] = [atom.aval for atom in equation.invars]
    return any(jax.dtypes.issubdtype(aval.dtype, jax.dtypes.prng_key) and aval.shape == () for aval in avals)


def _is_fold(equation: JaxprEqn) -> bool:
    return str(equation.primitive) == "random_fold_in"


def _kind(equation: JaxprEqn) -> str:
    """The same for equations that differ in the values of their inputs alone."""
    given = [_value(atom, {}) if _is_fixed(equation, atom) else atom.aval for atom in equation.invars]
    return f"{equation.primitive} {given} {equation.params}"


def _is_fixed(equation: JaxprEqn, atom: Any) -> bool:
    """True for a literal, such as the bounds of a draw; the number that is folded into a key is none."""
    return isinstance(atom, Literal) and not _is_fold(equation)


def _drawn(traced: ClosedJaxpr, alike: list[JaxprEqn], values: Mapping[Any, Any]) -> dict[Any, Any]:
    """The outputs of equations of one kind, evaluated as one over stacked inputs."""
    draw = _alone(traced, alike[0])
    if len(alike) == 1:
        return dict(zip(alike[0].outvars, draw(*_inputs(alike[0], values))))
    columns = zip(*(_inputs(equation, values) for equation in alike))
    found = jax.lax.optimization_barrier(jax.vmap(draw)(*map(jnp.stack, columns)))
    return {
        variable: each[number]
        for number, equation in enumerate(alike)
        for variable, each in zip(equation.outvars, found)
    }


def _inputs(equation: JaxprEqn, values: Mapping[Any, Any]) -> list[Any]:
    return [_value(atom, values) for atom in equation.invars if not _is_fixed(equation, atom)]


def _value(atom: Any, values: Mapping[Any, Any]) -> Any:
    return atom.val if isinstance(atom, Literal) else values[atom]


def _alone(traced: ClosedJaxpr, equation: JaxprEqn) -> Callable[..., list[Any]]:
    """An equation as a function of its inputs."""
    if _is_fold(equation):
        return lambda key, number: [jax.random.fold_in(key, number)]
    atoms = [atom for atom in equation.invars if not isinstance(atom, Literal)]
    parts = {"constvars": [], "invars": atoms, "outvars": equation.outvars, "eqns": [equation]}
    return jaxpr_as_fun(ClosedJaxpr(traced.jaxpr.replace(**parts), ()))
