"""Writing shards: conversion in parallel, and who gets which films."""
