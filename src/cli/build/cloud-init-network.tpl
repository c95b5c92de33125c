{% if config_get("cloud-init.network-config", config_get("user.network-config", "")) == "" -%}
version: 2
ethernets:
  eth0:
    dhcp4: true
    accept-ra: true
    dhcp-identifier: mac
{%- else -%}
{{ config_get("cloud-init.network-config", config_get("user.network-config", "")) }}
{%- endif %}
