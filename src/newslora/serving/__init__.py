"""Classifying over HTTP: many adapters on one backbone, an API and a page."""
