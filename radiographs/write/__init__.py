"""Writing shards: conversion in parallel, and which hospital gets which films."""
