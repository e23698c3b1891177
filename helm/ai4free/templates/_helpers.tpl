{{- define "ai4free.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "ai4free.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains (include "ai4free.name" .) .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "ai4free.name" .) | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "ai4free.selectorLabels" -}}
app.kubernetes.io/name: {{ include "ai4free.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: gateway
{{- end -}}

{{- define "ai4free.labels" -}}
{{ include "ai4free.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "ai4free.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "ai4free.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "ai4free.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* Two pods at once: only if neither the database, nor the limits, nor the volume belong to one of them. */}}
{{- define "ai4free.isShared" -}}
{{- if and .Values.database.existingSecret .Values.redis.existingSecret (not .Values.persistence.enabled) -}}true{{- end -}}
{{- end -}}

{{/* Values that are each right and together wrong. */}}
{{- define "ai4free.validate" -}}
{{- if and (gt (int .Values.replicaCount) 1) (not .Values.database.existingSecret) -}}
{{- fail "replicaCount > 1 needs database.existingSecret: SQLite belongs to one pod" -}}
{{- end -}}
{{- if and (gt (int .Values.replicaCount) 1) (not .Values.redis.existingSecret) -}}
{{- fail "replicaCount > 1 needs redis.existingSecret: limits kept in a process hold for that process only" -}}
{{- end -}}
{{- if and (gt (int .Values.replicaCount) 1) .Values.persistence.enabled -}}
{{- fail "replicaCount > 1 needs persistence.enabled=false: pods can't share a data directory" -}}
{{- end -}}
{{- if and .Values.database.existingSecret (not .Values.systemSecret.existingSecret) -}}
{{- fail "database.existingSecret needs systemSecret.existingSecret: pods that share keys must share the secret they are derived from" -}}
{{- end -}}
{{- end -}}
