instance-id: {{ config_get("volatile.cloud-init.instance-id", config_get("volatile.uuid", container.name)) }}
local-hostname: {{ container.name }}
{{ config_get("user.meta-data", "") }}
