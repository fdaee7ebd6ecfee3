{{- define "antiphon.name" -}}
{{- if contains "antiphon" .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-antiphon" .Release.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "antiphon.selector" -}}
app.kubernetes.io/name: antiphon
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "antiphon.labels" -}}
{{ include "antiphon.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "antiphon.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "antiphon.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "antiphon.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end }}

{{/* A job that runs one command: (dict "root" $ "name" "migrate" "args" (list …) "hook" "…" "weight" "…") */}}
{{- define "antiphon.job" -}}
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ include "antiphon.name" .root }}-{{ .name }}
  labels:
    app.kubernetes.io/component: {{ .name }}
    app.kubernetes.io/managed-by: {{ .root.Release.Service }}
  annotations:
    helm.sh/hook: {{ .hook }}
    helm.sh/hook-weight: {{ .weight | quote }}
    helm.sh/hook-delete-policy: before-hook-creation
spec:
  backoffLimit: 3
  template:
    metadata:
      labels:
        app.kubernetes.io/component: {{ .name }}
    spec:
      restartPolicy: Never
      automountServiceAccountToken: false
      {{- with .root.Values.imagePullSecrets }}
      imagePullSecrets: {{ toYaml . | nindent 8 }}
      {{- end }}
      securityContext: {{ include "antiphon.podSecurity" . | nindent 8 }}
      containers:
        - name: antiphon
          image: {{ include "antiphon.image" .root }}
          imagePullPolicy: {{ .root.Values.image.pullPolicy }}
          args: {{ toYaml .args | nindent 12 }}
          envFrom:
            - secretRef: { name: {{ .root.Values.existingSecret }} }
          resources:
            requests: { cpu: 100m, memory: 64Mi }
            limits: { memory: 512Mi }
          securityContext: {{ include "antiphon.containerSecurity" . | nindent 12 }}
{{- end }}
