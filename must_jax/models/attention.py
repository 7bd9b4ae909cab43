"""Attention of all tokens to all (Vaswani et al. 2017), of which only the inputs are kept for the gradient."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp


@jax.custom_vjp
def attention(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Each `[B, tokens, heads, C]`; the softmax is in float32.

    The gradient computes the weights again, as that of FlashAttention does (Dao et al. 2022): at 1,600 tokens, those of
    12 heads take 60 MB an image and layer in bfloat16, queries, keys and values 7 MB.
    """
    with jax.numpy_dtype_promotion("standard"):  # it asks for what strict code refuses
        return jax.nn.dot_product_attention(query, key, value)


def _forward(*inputs: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    return attention(*inputs), inputs


def _backward(inputs: tuple[jax.Array, ...], gradient: jax.Array) -> tuple[jax.Array, ...]:
    query, key, value = inputs
    dtype, scale = query.dtype, 1 / math.sqrt(query.shape[-1])
    logits = scale * jnp.einsum("bqhc,bkhc->bhqk", query, key, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(logits)
    of_weights = jnp.einsum("bqhc,bkhc->bhqk", gradient, value, preferred_element_type=jnp.float32)
    of_logits = weights * (of_weights - (weights * of_weights).sum(-1, keepdims=True))
    weights, of_logits = weights.astype(dtype), (scale * of_logits).astype(dtype)
    return (
        jnp.einsum("bhqk,bkhc->bqhc", of_logits, key),
        jnp.einsum("bhqk,bqhc->bkhc", of_logits, query),
        jnp.einsum("bhqk,bqhc->bkhc", weights, gradient),
    )


attention.defvjp(_forward, _backward)
