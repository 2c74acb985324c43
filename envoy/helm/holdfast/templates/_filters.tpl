{{/* The resource's namespace. */}}
{{- define "holdfast.namespace" -}}
{{ .Values.namespace | default .Release.Namespace }}
{{- end }}

{{/* Which listeners and clusters a patch is about. */}}
{{- define "holdfast.context" -}}
{{ get (dict "sidecar" "SIDECAR_OUTBOUND" "gateway" "GATEWAY" "inbound" "SIDECAR_INBOUND") .Values.proxy }}
{{- end }}

{{/* A filter's name, everywhere in an Envoy: of a list of the root and the seat. */}}
{{- define "holdfast.filter" -}}
{{- $root := index . 0 -}}
holdfast.{{ include "holdfast.namespace" $root }}.{{ $root.Values.name }}.{{ index . 1 }}
{{- end }}

{{/* The module as a filter's configuration: of a list of the root and the seat. */}}
{{- define "holdfast.wasm" -}}
{{- $root := index . 0 -}}
{{- $seat := index . 1 -}}
{{- $module := $root.Values.module -}}
"@type": type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm
config:
  name: holdfast
  root_id: holdfast
  failure_policy: FAIL_RELOAD
  vm_config:
    vm_id: holdfast
    runtime: envoy.wasm.runtime.v8
    code:
      {{- if $module.file }}
      local:
        filename: {{ $module.file | quote }}
      {{- else }}
      remote:
        http_uri:
          uri: {{ required "module needs a url (oci:// or https://) or a file" $module.url | quote }}
          timeout: 30s
          cluster: _
        {{- with $module.sha256 }}
        sha256: {{ . | quote }}
        {{- end }}
      {{- end }}
    {{- if eq $seat "attempt" }}
    configuration:
      "@type": type.googleapis.com/google.protobuf.StringValue
      value: '{"seat": "attempt"}'
    {{- end }}
  {{- if eq $seat "request" }}
  configuration:
    "@type": type.googleapis.com/google.protobuf.StringValue
    value: {{ $root.Values.policy | quote }}
  {{- end }}
{{- end }}

{{/* A seat's filter in a chain: itself, or a name that Envoy asks for, with a filter that does nothing until it is there. */}}
{{- define "holdfast.seat" -}}
{{- $root := index . 0 -}}
name: {{ include "holdfast.filter" . }}
{{- if $root.Values.inline }}
typed_config:
  {{- include "holdfast.wasm" . | nindent 2 }}
{{- else }}
config_discovery:
  config_source: {ads: {}, initial_fetch_timeout: 0s, resource_api_version: V3}
  type_urls:
  - type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm
  - type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation
  default_config:
    "@type": type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation
  apply_default_config_without_warming: true
{{- end }}
{{- end }}

{{/* What a cluster gets: balancing behind the header that names hosts, and the attempt seat. Of a list of the root and the cluster. */}}
{{- define "holdfast.cluster" -}}
{{- $root := index . 0 -}}
{{- $cluster := index . 1 -}}
{{- with $cluster.anew }}
{{- toYaml . }}
{{ end }}
{{- with $cluster.fallback -}}
load_balancing_policy:
  policies:
  - typed_extension_config:
      name: envoy.load_balancing_policies.override_host
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.load_balancing_policies.override_host.v3.OverrideHost
        override_host_sources:
        - header: x-holdfast-hosts
        fallback_policy:
          policies:
          - typed_extension_config:
              {{- toYaml . | nindent 14 }}
{{ end -}}
typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    {{- toYaml $cluster.options | nindent 4 }}
    http_filters:
    - {{- include "holdfast.seat" (list $root "attempt") | nindent 6 }}
    - name: envoy.filters.http.upstream_codec
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec
{{- end }}

{{/* The one cluster of a service of which no more is said than its protocol, as Istio makes it. Of a list of the root and the service. */}}
{{- define "holdfast.plain" -}}
{{- $root := index . 0 -}}
{{- $service := index . 1 -}}
{{- $retries := false -}}
{{- range (fromJson $root.Values.policy).policies -}}
{{- if hasKey . "retry" -}}{{- $retries = true -}}{{- end -}}
{{- end -}}
fallback:
  name: envoy.load_balancing_policies.least_request
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest
options:
  "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
  explicit_http_config:
    {{ if has $service.protocol (list "http2" "grpc") }}http2_protocol_options{{ else }}http_protocol_options{{ end }}: {}
  {{- if $retries }}
  retry_policy:
    retry_on: connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes
    num_retries: 2
    retry_back_off: {base_interval: 0.001s, max_interval: 0.001s}
    host_selection_retry_max_attempts: 5
    retry_host_predicate:
    - name: envoy.retry_host_predicates.previous_hosts
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate
  {{- end }}
{{- end }}
