"""How the fleet is deployed; `deploy.local` runs it on one machine."""
